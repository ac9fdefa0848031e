from __future__ import annotations

from pathlib import Path

import pytest
from harness import installed, plugin_folder  # noqa: F401 - fixtures

from dbbench import plugins as plugin
from dbbench.errors import UserError
from dbbench.evaluation.encoder import load_encoder
from dbbench.evaluation.metric import load_metric
from dbbench.generation.method import load_method


def test_built_in_and_third_party_plugins_come_in_by_the_same_door(installed: None) -> None:  # noqa: F811
    assert {"photos", "mini"} <= set(plugin.names("datasets"))
    assert {"dreambooth", "textual_inversion", "tinted"} <= set(plugin.names("methods"))
    assert {"timm", "open_clip", "mini-dino", "mini-clip", "pixels"} <= set(
        plugin.names("encoders")
    )
    assert load_method("tinted", {"steps": 7}).settings.model_dump()["steps"] == 7
    assert load_encoder("pixels:4", device="cpu").dim == 48
    assert load_metric("clip-t").compares == "text"


def test_a_third_partys_version_is_part_of_where_it_comes_from(installed: None) -> None:  # noqa: F811
    assert plugin.provenance("methods", "tinted") == "tinted_plugin:Tinted (tinted-plugin 1.0)"
    own = plugin.provenance("methods", "dreambooth")
    assert own == "dbbench.baselines.dreambooth:DreamBooth"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("methods", "dreamboth", 'unknown method "dreamboth"; did you mean "dreambooth"?'),
        ("metrics", "clip_t", 'unknown metric "clip_t"; did you mean "clip-t"?'),
        ("encoders", "tim", 'unknown encoder "tim"; did you mean "timm"? (dbbench list encoders)'),
    ],
)
def test_an_unknown_name_suggests_the_nearest(
    kind: plugin.PluginKind, name: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        plugin.find(kind, name)
    assert message in str(caught.value)


def test_a_bad_method_setting_is_named(installed: None) -> None:  # noqa: F811
    with pytest.raises(UserError, match=r'tinted: unknown key "stesp"; did you mean "steps"\?'):
        load_method("tinted", {"stesp": 3})
    with pytest.raises(UserError, match="tinted: steps = 'x'"):
        load_method("tinted", {"steps": "x"})


def test_a_plugin_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "broken-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[dbbench.methods]\nbroken = no_such:Thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugin._points.cache_clear()
    with pytest.raises(UserError, match='method "broken" .* cannot be loaded: No module named'):
        load_method("broken", {})
    plugin._points.cache_clear()
