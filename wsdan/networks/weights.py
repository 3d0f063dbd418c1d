"""Pretrained weights: downloading published ones, and loading a backbone's."""

import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wsdan.distributed import print_main
from wsdan.errors import UserError
from wsdan.networks.state_dicts import (
    Fit,
    StateDicts,
    check_state_dict,
    choose_fit,
    list_keys,
    shown,
)
from wsdan.output import print_if_possible

_TIMEOUT = 10.0  # seconds to wait for a server's answer


@dataclass(frozen=True)
class PublishedWeights:
    """ImageNet weights that can be downloaded.

    backbone: whose. build_model: creates the model with these weights, which downloads `url` unless
    it is cached. url: of the file, "" or None where none was published. folder: where the file may
    be put by hand.
    """

    backbone: str
    build_model: Callable[[], nn.Module]
    url: str | None
    cached: bool
    folder: str | None = None


def fetch_weights(published: PublishedWeights) -> dict[str, Tensor]:
    """The published weights as a state dict; what is downloaded from where is printed.

    Does not advance the random generator, so that --pretrained and --weights give the same run.

    Raises UserError if there are none, or within about 10 s if their server cannot be reached.
    """
    others = "--weights FILE takes a file of yours, --no-pretrained starts from random weights"
    if not published.url:
        raise UserError(f"--pretrained: no weights of {published.backbone} are known; {others}")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)  # of each wait; torch's downloader has none of its own
    try:
        if not published.cached:
            print_if_possible(f"downloading {published.url}")
            _check_reachable(published.url)
        with torch.random.fork_rng(devices=[]):
            return published.build_model().state_dict()
    except Exception as error:  # the hub client raises errors of its HTTP library
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        place = f"put the file into {published.folder}; " if published.folder else ""
        raise UserError(
            f"--pretrained: cannot fetch {published.url} ({reason}); {place}{others}"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _check_reachable(url: str) -> None:
    """Raise URLError or OSError unless the server answers: hub clients retry for half a minute."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD")).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # a client may have other certificates
            raise


def load_backbone_weights(
    network: nn.Module, weights: dict[str, Tensor] | StateDicts, model_keys: set[str], name: str
) -> None:
    """Load all weights of a backbone from a state dict of the whole model, or from a file's.

    A prefix before all its keys, as of nn.DataParallel, is left out, and said. model_keys: the keys
    of the whole model, of which `network` is a part. The others, such as the classifier's, are
    ignored, whatever their shape.

    Raises UserError that lists the keys that are missing, unknown or of another shape.
    """
    source = f"--weights of --backbone {name}"
    dicts = weights if isinstance(weights, StateDicts) else StateDicts(source, {"": weights})
    named = {key: _current_keys(state) for key, state in dicts.named.items()}
    wanted = network.state_dict()
    fit = choose_fit(StateDicts(dicts.source, named, dicts.key), wanted)
    state = {
        key.removeprefix(fit.prefix): value
        for key, value in fit.state.items()
        if key.startswith(fit.prefix)
    }
    for key in wanted:
        if key.endswith("num_batches_tracked"):  # not in files of PyTorch before 0.4.1
            state.setdefault(key, wanted[key])
    used = {key: value for key, value in state.items() if key in wanted}
    if fit.prefix:
        source += f", without the prefix {shown(fit.prefix)}"
    check_state_dict(used, wanted, source)
    known = {*wanted, *model_keys}
    heads = {key.partition(".")[0] for key in model_keys - wanted.keys() if key.count(".") == 1}
    unknown = [key for key in state if key not in known and key.partition(".")[0] not in heads]
    if unknown:
        raise UserError(f"{source}: unknown: {list_keys(unknown)}")
    network.load_state_dict(used)
    if fit.path:
        print_main(_taken(fit, dicts.source))


def _taken(fit: Fit, source: str) -> str:
    """What was taken from a file that holds more than the weights by their own names."""
    text = f"{source}: taken are the weights" + (f" of {shown(fit.name)}" if fit.name else "")
    others = [key for key in fit.state if not key.startswith(fit.prefix)]
    text += f", without the prefix {shown(fit.prefix)}" if fit.prefix else ""
    return text + (f"; left out: {list_keys(others)}" if others else "")


def _current_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published files of DenseNets have keys with norm.1 and conv.1 for norm1 and conv1."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key): value
        for key, value in state.items()
    }
