"""Importing PixArt-Sigma, its VAE and CLIP: a tiny set of folders with the keys of the real ones."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from svdrr import cli
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose
from svdrr.models import find_model
from svdrr.models.import_pixart import import_pixart
from svdrr.radiograph import Radiograph
from svdrr.synthesis.configuration import ModelConfiguration, load_configuration
from svdrr.synthesis.pipeline import encode_latents, image_tokens
from svdrr.synthesis.synthesize import Synthesizer

VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 0.13025,
}
CLIP = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ENTRIES = {
    "resolution": 32,
    "vae": VAE,
    "vcdit": {
        "sample_size": 16,
        "patch_size": 2,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "latent_channels": 4,
        "image_embedding_dim": 24,
        "interpolation_scale": 0.5,
    },
    "image_encoder": {"class": "CLIPVisionModel", **CLIP},
    "scheduler": {},
    "sampling": {"num_inference_steps": 2, "guidance_scale": 3.0},
    "training": {},
}
TRANSFORMER = "diffusion_pytorch_model.safetensors"


def configuration() -> ModelConfiguration:
    return ModelConfiguration(name="tiny-pixart", **ENTRIES)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``pixart``, ``vae`` and ``clip`` as `save_pretrained` of the libraries writes them."""
    root = tmp_path_factory.mktemp("originals")
    torch.manual_seed(5)
    pixart = PixArtTransformer2DModel(
        sample_size=16,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=20,
        interpolation_scale=0.5,
        use_additional_conditions=False,
    )
    for parameter in pixart.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pixart.save_pretrained(root / "pixart" / "transformer")
    AutoencoderKL(**VAE).save_pretrained(root / "vae")
    CLIPVisionModel(CLIPVisionConfig(**CLIP)).save_pretrained(root / "clip")
    return root


@pytest.fixture
def folders(originals: Path, tmp_path: Path) -> Path:
    shutil.copytree(originals, tmp_path / "given")
    return tmp_path / "given"


def imported(folders: Path):
    return import_pixart(configuration(), folders / "pixart", folders / "vae", folders / "clip")


def changed_weights(file: Path, change) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def changed_config(file: Path, **entries: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


# What comes out


def test_noise_is_predicted_as_by_pixart_for_a_source_latent_of_zeros(originals: Path) -> None:
    """Against diffusers' own PixArt, whose output's first half is the noise, with the same cross-attention tokens."""
    vcdit = imported(originals).vcdit
    pixart = PixArtTransformer2DModel.from_pretrained(originals / "pixart" / "transformer")
    pixart.caption_projection = None
    generator = torch.Generator().manual_seed(0)
    noised = torch.randn(3, 4, 16, 16, generator=generator)
    tokens = torch.randn(3, 7, 32, generator=generator)
    timestep = torch.tensor([1, 500, 999])
    with torch.no_grad():
        expected = pixart(noised, encoder_hidden_states=tokens, timestep=timestep).sample[:, :4]
        actual = vcdit(noised, timestep, torch.zeros_like(noised), tokens)
        any_source = vcdit(noised, timestep, torch.randn(3, 4, 16, 16, generator=generator), tokens)
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    # The source's weights are zero, too, when training begins.
    torch.testing.assert_close(any_source, expected, rtol=1e-5, atol=1e-5)


def test_every_weight_is_one_of_the_originals_or_named_as_new(originals: Path) -> None:
    pipeline = imported(originals)
    pixart = load_file(originals / "pixart" / "transformer" / TRANSFORMER)
    changed = {"pos_embed.proj.weight", "proj_out.weight", "proj_out.bias"}
    dropped = {f"caption_projection.linear_{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")}
    weights = pipeline.vcdit.state_dict()
    assert weights.keys() == {f"transformer.{name}" for name in pixart.keys() - dropped} | {
        "view_projection.weight",
        "view_projection.bias",
    }
    for name in pixart.keys() - dropped - changed:
        assert torch.equal(weights[f"transformer.{name}"], pixart[name])
    torch.testing.assert_close(weights["view_projection.weight"][:, :24], torch.eye(32, 24))
    for name, value in load_file(originals / "vae" / TRANSFORMER).items():
        assert torch.equal(pipeline.vae.state_dict()[name], value)
    assert pipeline.vae.config.scaling_factor == 0.13025


def test_vae_and_clip_compute_what_the_originals_do(originals: Path) -> None:
    pipeline = imported(originals)
    radiographs = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vae = AutoencoderKL.from_pretrained(originals / "vae")
        torch.testing.assert_close(encode_latents(pipeline.vae, radiographs), encode_latents(vae, radiographs))
        clip = CLIPVisionModel.from_pretrained(originals / "clip")
        torch.testing.assert_close(image_tokens(pipeline.image_encoder, radiographs), image_tokens(clip, radiographs))


def test_a_whole_clip_gives_its_image_tower(originals: Path, folders: Path) -> None:
    torch.manual_seed(6)
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(vision_config=CLIP, text_config={**text, "vocab_size": 10}))
    shutil.rmtree(folders / "clip")
    whole.save_pretrained(folders / "clip")
    names = load_file(folders / "clip" / "model.safetensors").keys()
    assert "vision_model.embeddings.class_embedding" in names
    changed_weights(
        folders / "clip" / "model.safetensors",
        # As in the folders of 2021.
        lambda weights: weights.update({"vision_model.embeddings.position_ids": torch.arange(5)[None]}),
    )
    radiographs = torch.rand(1, 32, 32)
    with torch.no_grad():
        expected = image_tokens(CLIPVisionModel.from_pretrained(folders / "clip"), radiographs)
        torch.testing.assert_close(image_tokens(imported(folders).image_encoder, radiographs), expected)


def test_shards_half_precision_and_former_names_are_read(originals: Path, folders: Path) -> None:
    place = folders / "pixart" / "transformer"
    weights = load_file(place / TRANSFORMER)
    (place / TRANSFORMER).unlink()
    parts = {"a.safetensors": sorted(weights)[::2], "b.safetensors": sorted(weights)[1::2]}
    for file, names in parts.items():
        save_file({name: weights[name].half() for name in names}, place / file)
    weight_map = {name: file for file, names in parts.items() for name in names}
    (place / f"{TRANSFORMER}.index.json").write_text(json.dumps({"weight_map": weight_map}))

    def rename(vae: dict[str, torch.Tensor]) -> None:
        for name in [name for name in vae if ".to_" in name]:
            former = name.replace(".to_q.", ".query.").replace(".to_k.", ".key.").replace(".to_v.", ".value.")
            vae[former.replace(".to_out.0.", ".proj_attn.")] = vae.pop(name)

    changed_weights(folders / "vae" / TRANSFORMER, rename)
    pipeline, expected = imported(folders), imported(originals)
    for part in ("vcdit", "vae"):
        for name, value in getattr(pipeline, part).state_dict().items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, getattr(expected, part).state_dict()[name], rtol=1e-3, atol=1e-4)


# What does not fit


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("pixart/transformer", lambda w: w.pop("proj_out.bias"), r"lack 1 key: proj_out\.bias;"),
        ("pixart/transformer", lambda w: w.pop("scale_shift_table"), "lack 1 key: scale_shift_table;"),
        (
            "pixart/transformer",
            lambda w: w.update({"adaln_single.emb.resolution_embedder.linear_1.weight": torch.zeros(1)}),
            r"beside what is needed, 1 key: adaln_single\.emb\.resolution_embedder\.linear_1\.weight;",
        ),
        (
            "pixart/transformer",
            lambda w: w.update({"adaln_single.linear.bias": torch.zeros(3)}),
            r"in another shape 1 key: adaln_single\.linear\.bias;",
        ),
        ("vae", lambda w: w.pop("quant_conv.bias"), r"vae lack 1 key: quant_conv\.bias;"),
        ("vae", lambda w: w.update({"loss.logvar": torch.zeros(1)}), r"vae hold, .* 1 key: loss\.logvar;"),
    ],
)
def test_keys_that_are_missing_left_over_or_of_another_shape_are_named(folders, part, change, words) -> None:
    changed_weights(folders / part / TRANSFORMER, change)
    with pytest.raises(SVDRRError, match=words):
        imported(folders)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            lambda w: w.fill_(float("nan")),
            "The tensor 'proj_out.bias' of '.*pytorch_model.safetensors' has values that",
        ),
        (lambda w: w.long(), "The tensor 'proj_out.bias' of '.*pytorch_model.safetensors' is of int64 instead of"),
    ],
)
def test_a_tensor_of_what_is_no_weight_is_named(folders: Path, value, words: str) -> None:
    file = folders / "pixart" / "transformer" / TRANSFORMER
    changed_weights(file, lambda weights: weights.update({"proj_out.bias": value(weights["proj_out.bias"])}))
    with pytest.raises(SVDRRError, match=words):
        imported(folders)


def test_of_many_keys_three_are_named(folders: Path) -> None:
    changed_weights(folders / "clip" / "model.safetensors", dict.clear)
    with pytest.raises(SVDRRError, match=r"clip lack 39 keys: (\S+, ){3}…; they are not of the architecture"):
        imported(folders)


@pytest.mark.parametrize(
    ("file", "entries", "words"),
    [
        ("pixart/transformer/config.json", {"num_layers": 3}, "num_layers of .* is 3, and 2 is needed"),
        ("pixart/transformer/config.json", {"out_channels": 4}, "out_channels of .* is 4, and 8 is needed"),
        ("pixart/transformer/config.json", {"num_attention_heads": 4}, "num_attention_heads"),
        ("vae/config.json", {"scaling_factor": 0.18215}, r"scaling_factor of .* is 0\.18215, and 0\.13025 is needed"),
        ("clip/config.json", {"hidden_act": "gelu"}, "hidden_act of .* is gelu, and quick_gelu is needed"),
        ("clip/config.json", {"vision_config": {"num_attention_heads": 3}}, "is 3, and 2 is needed"),
    ],
)
def test_what_shapes_do_not_show_is_compared(folders, file, entries, words) -> None:
    changed_config(folders / file, **entries)
    with pytest.raises(SVDRRError, match=words):
        imported(folders)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("pixart/transformer/config.json", None, r"has no readable config\.json"),
        ("vae/config.json", "{", r"has no readable config\.json"),
        ("vae/config.json", "[]", r"has no readable config\.json"),
        (f"vae/{TRANSFORMER}", None, r"no diffusion_pytorch_model\.safetensors in .*from safetensors alone"),
        (f"vae/{TRANSFORMER}", "text", "is damaged or no safetensors file"),
        (f"vae/{TRANSFORMER}.index.json", "{}", r"index\.json' is damaged"),
        (f"vae/{TRANSFORMER}.index.json", '{"weight_map": {"a": "../x.safetensors"}}', r"There is no \.\./x"),
    ],
)
def test_damaged_folders_get_one_sentence(folders: Path, file: str, content: str | None, words: str) -> None:
    if content is None:
        (folders / file).unlink()
    else:
        (folders / file).write_text(content)
    with pytest.raises(SVDRRError, match=words):
        imported(folders)


def test_a_configuration_without_clip_is_refused(folders: Path) -> None:
    demo = load_configuration("demo-128")
    with pytest.raises(SVDRRError, match="'demo-128' is not made of PixArt and CLIP"):
        import_pixart(demo, folders / "pixart", folders / "vae", folders / "clip")


# The command


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["svdrr", "models", "import-pixart", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return int(stop.value.code or 0)


def test_the_command_writes_a_model_that_says_it_is_untrained(
    originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny-pixart.json"
    file.write_text(json.dumps(ENTRIES))
    out = tmp_path / "model"
    options = ("--vae", originals / "vae", "--clip", originals / "clip", "--config", file, "--json")
    assert run(originals / "pixart" / "transformer", out, *options) == 0
    count = sum(value.numel() for value in load_file(out / "vcdit" / TRANSFORMER).values())
    assert json.loads(capsys.readouterr().out) == {"model": str(out), "parameters": count}
    model = find_model(str(out))
    assert model.name == "tiny-pixart-untrained"
    assert "untrained for X-rays" in model.trained_on
    radiograph = Radiograph(np.random.default_rng(0).random((32, 32), np.float32), (15.0, 15.0))
    (view,) = Synthesizer(model).synthesize(radiograph, [CArmPose(30.0)])
    assert view.pixels.shape == (32, 32)
    assert np.isfinite(view.pixels).all()


def test_the_command_leaves_nothing_where_it_fails(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny-pixart.json"
    file.write_text(json.dumps(ENTRIES))
    changed_weights(folders / "vae" / TRANSFORMER, lambda weights: weights.pop("quant_conv.bias"))
    options = ("--vae", folders / "vae", "--clip", folders / "clip", "--config", file)
    assert run(folders / "pixart", tmp_path / "model", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("svdrr: The weights in")
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("full", "it exists and is no empty folder; choose a new one."),
        ("full/model.json", "it exists and is no empty folder; choose a new one."),
        ("missing/model", "does not exist; create it first."),
    ],
)
def test_another_model_s_folder_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, words: str
) -> None:
    file = tmp_path / "tiny-pixart.json"
    file.write_text(json.dumps(ENTRIES))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.json").write_text("another model")
    # Before anything is read: there is nothing.
    options = ("--vae", tmp_path / "vae", "--clip", tmp_path / "clip", "--config", file)
    assert run(tmp_path / "pixart", tmp_path / out, *options) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["model.json"]
    assert (tmp_path / "full" / "model.json").read_text() == "another model"


def test_entries_that_a_configuration_leaves_out_are_the_classes_own(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny-pixart.json"
    file.write_text(json.dumps({**ENTRIES, "vcdit": {"sample_size": 16, "image_embedding_dim": 24}}))
    options = ("--vae", folders / "vae", "--clip", folders / "clip", "--config", file)
    assert run(folders / "pixart", tmp_path / "model", *options) == 2
    assert "is 2, and 28 is needed" in capsys.readouterr().err
