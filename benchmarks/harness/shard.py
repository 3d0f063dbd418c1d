"""A plugin of pytest that runs a slice of what was collected.

pytest -p benchmarks.harness.shard --shard 2/8
"""


def pytest_addoption(parser):
    parser.addoption("--shard", default="0/1", help="which slice of how many, from 0")


def pytest_collection_modifyitems(config, items):
    index, count = map(int, config.getoption("--shard").split("/"))
    others = [item for i, item in enumerate(items) if i % count != index]
    items[:] = items[index::count]
    config.hook.pytest_deselected(items=others)
