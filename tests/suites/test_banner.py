"""Numbers of the embedded world's encoders never stand without a line that says so."""

import pytest

from dbbench.suites.banner import full_banner
from dbbench.suites.suite import load_suite, on_dataset, override

LINE = "mini-clip, mini-dino: encoders of the embedded world, not comparable with published numbers"
MINI = {"dino": "mini-dino", "clip": "mini-clip"}


def test_encoders_of_the_embedded_world_have_a_line() -> None:
    assert full_banner(None, MINI.values()) == LINE
    one = "mini-lpips: encoder of the embedded world, not comparable with published numbers"
    assert full_banner(None, ["timm:x", "mini-lpips"]) == one
    assert full_banner("mine", MINI.values()) == f"mine; {LINE}"
    assert full_banner("mine", ["timm:mini-dino"]) == "mine"
    assert full_banner(None, []) is None


@pytest.mark.parametrize("name", ["mini", "table1"])
def test_the_embedded_worlds_own_banner_says_it_already(name: str) -> None:
    suite = load_suite(name, None if name == "mini" else "mini")
    assert suite.full_banner == suite.banner
    assert (
        on_dataset(suite, "photos").full_banner == f"{on_dataset(suite, 'photos').banner}; {LINE}"
    )


def test_a_suite_of_photographs_that_borrows_them_has_it_too() -> None:
    paper = load_suite("paper")
    assert paper.full_banner is None
    assert override(paper, [f"encoders.{k}={v}" for k, v in MINI.items()]).full_banner == LINE
