"""What `compress passes` and `compress schema` tell of the settings."""

import json

from compress import passes
from compress.settings import choices
from tests.command import compress


def test_every_allowed_word_is_shown(tmp_path) -> None:
    shown = " ".join(compress("passes", folder=tmp_path).stdout.split())
    assert "(bk-base, bk-small, bk-tiny)" in shown and "(recovery, loss)" in shown
    for name in passes.names():
        for key, field in passes.module(name).Config.model_fields.items():
            words = choices(field.annotation)
            assert f"{key}: " in shown and (not words or f"({', '.join(words)})" in shown), (name, key)


def test_settings_within_settings_are_shown(tmp_path) -> None:
    shown = compress("passes", folder=tmp_path).stdout
    assert "        patience: " in shown and "PydanticUndefined" not in shown and "class '" not in shown


def test_schema_holds_every_allowed_word(tmp_path) -> None:
    shown = json.loads(compress("schema", folder=tmp_path).stdout)
    text = json.dumps(shown)
    for name in passes.names():
        for field in passes.module(name).Config.model_fields.values():
            assert all(f'"{word}"' in text for word in choices(field.annotation))
