"""constraints.txt: what is installed is what the tests have run with."""

from importlib.metadata import distribution

from packaging.utils import canonicalize_name

from tests.support.installed import REPOSITORY, asked_for

CUDA = ("cuda-", "nvidia-", "triton")
"""What torch's builds with CUDA bring: each version of torch names the exact ones by itself."""


def test_constraints_pin_every_distribution_that_the_tests_have() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    needed = {canonicalize_name(each.name) for each in asked_for(distribution("scoreline"), "dev")}
    assert {name for name in needed - pinned if not name.startswith(CUDA)} == set()
