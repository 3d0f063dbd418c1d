"""Help and mistakes are told at once: nothing imports torch before the arguments are known good."""

import subprocess
import sys

import pytest
from runs import environment

# Runs each command in one process, and prints its status and the first module that was too much.
RUN = """
import contextlib, io, json, sys
from wsdan.cli import main
for command in json.loads(sys.stdin.read()):
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(command)
        except SystemExit as exit:  # argparse ends so after help
            status = exit.code
    slow = [name for name in ("torch", "torchvision", "timm", "PIL") if name in sys.modules]
    print(json.dumps([status, error.getvalue(), slow]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """command -> [status, what it wrote to stderr, slow modules imported by then]."""
    import json

    folder = tmp_path_factory.mktemp("start")
    (folder / "a.yaml").write_text("epochs: 0\n")
    (folder / "a.pt").write_bytes(b"no checkpoint")
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([line.split() for line in COMMANDS]), capture_output=True, text=True,
        check=True, cwd=folder, env=environment(),
    )  # fmt: skip
    return dict(zip(COMMANDS, map(json.loads, result.stdout.splitlines()), strict=True))


HELP = [
    "--help",
    "--version",
    "train --help",
    "eval --help",
    "predict --help",
    "explain --help",
    "convert --help",
    "serve --help",
    "export --help",
    "reproduce --help",
    "reproduce --list",
]
MISTAKES = {
    "reproduce": "name a setting; `wsdan reproduce --list` shows them",
    "reproduce cubs": "no setting 'cubs'; there are cub-wsdan-inception448, aircraft-",
    "reproduce cub": "cub-wsdan-inception448 needs --root, the folder of CUB-200-2011",
    "reproduce cub --root none": "--root: no such folder: none",
    "reproduce cub --root . --epochs 0": "--epochs must be at least 1; got 0",
    "reproduce cub --root . --lr 1": "there is no option --lr",
    "export --checkpoint a.pt --format onnx --out a.pt2": "name must end in .onnx; got a.pt2",
    "serve --checkpoint a.pt --port 70000": "--port must be in [0, 65535]; got 70000",
    "": "arguments are required: COMMAND",
    "fly": "invalid choice: 'fly'",
    "train --batchsize 3": "no option --batchsize; did you mean --batch-size? (see `wsdan train -",
    "train --lr inf": "--lr must be a finite number",
    "eval --checkpont a.pt": "no option --checkpont; did you mean --checkpoint? (see `wsdan eval -",
    "train --epochs many": "argument --epochs: invalid int value: 'many'",
    "train --epochs 0": "--epochs must be at least 1; got 0",
    "train --config a.yaml": "--epochs must be at least 1; got 0",
    "train --config none.yaml": "--config: none.yaml: no such file",
    "train --data bird": "invalid choice: 'bird'",
    "train --data folder": "--data folder needs --root",
    "train --data folder --root none": "--root: no such folder: none",
    "train --weights none.pt": "--weights: none.pt: no such file",
    "train --backbone resnet500": "has no model 'resnet500'; the closest are resnet50, ",
    "train --resume": "--resume and --overwrite need --out",
    "eval --checkpoint none.pt": "checkpoint none.pt: no such file",
    "eval --checkpoint .": "checkpoint .: is a folder",
    "eval --checkpoint a.pt --root none": "--root: no such folder: none",
    "predict --checkpoint none.pt a.png": "checkpoint none.pt: no such file",
    "predict --checkpoint a.pt none.png": "none.png: not a readable image: no such file",
    "explain --checkpoint a.pt none.png": "none.png: not a readable image: no such file",
    "explain --checkpoint a.pt a.png --top 11": "--top must be from 1 to 10; got 11",
    "convert none.pth --out b.pt": "convert: none.pth: no such file",
    "convert a.pt --out b.pt --classes none.txt": "--classes: none.txt: no such file",
}
COMMANDS = [*HELP, *MISTAKES]


@pytest.mark.parametrize("command", HELP)
def test_help_needs_no_torch(outcomes, command):
    assert outcomes[command] == [0, "", []]


@pytest.mark.parametrize("command", list(MISTAKES))
def test_a_mistake_is_told_without_torch(outcomes, command):
    status, error, slow = outcomes[command]
    assert (status, slow) == (2, [])
    assert error.startswith("wsdan: error: ") and error.count("\n") == 1
    assert MISTAKES[command] in error


def test_an_unknown_timm_model_is_told_without_torch():
    pytest.importorskip("timm", reason="timm is an extra")
    from wsdan.errors import UserError
    from wsdan.networks.names import check_name

    with pytest.raises(UserError, match=r"timm has no model 'resnet500'; the closest are timm/"):
        check_name("timm/resnet500")


def test_every_model_of_torchvision_and_timm_passes_the_check():
    import torchvision

    from wsdan.networks.names import check_name

    for name in torchvision.models.list_models(module=torchvision.models):
        check_name(name)
    timm = pytest.importorskip("timm", reason="timm is an extra")
    for name in [*timm.list_models(), *timm.list_pretrained()]:
        check_name(f"timm/{name}")
    check_name("timm/tf_efficientnet_b0_ns")  # a former name, which timm still takes
