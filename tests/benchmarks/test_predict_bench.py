"""The benchmark of predictions from files times the same images three times."""

import predict_bench


def test_a_small_one(capsys):
    options = ["--backbone", "tiny", "--image-size", "32", "--images", "3", "--batch", "2"]
    predict_bench.main([*options, "--workers", "0", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["network", "loading", "predict"]
    assert lines[0].endswith(" 1.00 of the network")
