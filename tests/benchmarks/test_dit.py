"""The transformer's table has every way, and says what was not timed."""

from benchmarks import dit


def test_every_way_answers_and_is_compared() -> None:
    found = dit.measure(
        dit.SMALL | {"sample_size": 8, "num_layers": 2, "num_attention_heads": 1, "num_embeds_ada_norm": 10},
        timed=False,
    )
    rows = found["rows"]
    assert set(rows) == {dit.EAGER, dit.FLOAT, dit.INT8, dit.STATIC, dit.DYNAMIC}
    assert rows[dit.FLOAT]["sqnr_db"] > 100 and 20 < rows[dit.INT8]["sqnr_db"] < 60
    assert rows[dit.INT8]["bytes"] < 0.5 * rows[dit.FLOAT]["bytes"]
    text = dit.table(found)
    assert "not timed" in text and text.count("\n| ") == 6
    rows[dit.INT8] |= {"ms": 12.345, "ratio": 0.5, "interval": (0.4, 0.6)}
    assert f"| {dit.INT8} | 0.500 (0.400 … 0.600) | 12.35 |" in dit.table(found | {"processor": "a processor"})
