"""What loading a preset for the `captioner` command says and takes."""

from tiny_captioner import tiny_captioner

from tools.caption import load_captioner


def test_where_bfloat16_is_slow_the_command_says_so_and_takes_float32(tmp_path, monkeypatch, capsys):
    tiny_captioner().save_to_preset(str(tmp_path / "preset"))
    monkeypatch.setattr("captioner.model.inference.has_fast_bfloat16", lambda: False)
    model = load_captioner(str(tmp_path / "preset"), "bfloat16")
    assert {v.dtype for v in model.backbone.decoder.variables} == {"float32"}
    assert "no instructions for bfloat16" in capsys.readouterr().err
