"""Parts have one name in all models, and a name that no part has is told with the nearest one."""

import pytest

from hopscotch.models.names import common, common_names, find_parts, layer_of, whole_parts
from tests.small_models import make_model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.blocks.0.ffn.0.weight", "encoder.blocks.0.ffn.0.weight"),
        ("encoder.block.layers.10.ffn.0.weight", "encoder.blocks.10.ffn.0.weight"),
        ("encoder.encoder.block.layers.1", "encoder.blocks.1"),
        ("encoder.attention.blocks.2.ffn.0.weight", "encoder.blocks.2.ffn.0.weight"),
        ("encoder.blocks.0.attention.attention.query.weight", "encoder.blocks.0.attention.query.weight"),
        ("encoder.blocks.0.attention.gate.net.0.bias", "encoder.blocks.0.attention.gate.net.0.bias"),
        ("encoder.encoder.block.policy.norm.weight", "encoder.block.policy.norm.weight"),
        ("encoder.gate.keys", "encoder.gate.keys"),
        ("encoder.jump.block.layers.0.norm.weight", "encoder.jump.block.layers.0.norm.weight"),
        ("stem.norms.0.weight", "stem.norms.0.weight"),
    ],
)
def test_a_part_has_one_name(name: str, expected: str) -> None:
    assert common(name) == expected


@pytest.mark.parametrize("model", ["jump_attention", "learned_skip", "original", "skip_layer", "skip_transformer"])
def test_no_two_parts_of_a_model_have_the_same_name(model: str) -> None:
    names = list(make_model(model).state_dict())
    assert len(set(map(common, names))) == len(names)


def test_layers_of_the_stem_are_the_first_ones() -> None:
    names = ["stem.norms.0.bias", "stem_layers.0.ffn.0.bias", "stem_layers.1.x", "encoder.encoder.blocks.0.x"]
    found = list(common_names(names).values())
    assert found == ["stem.norms.0.bias", "encoder.blocks.0.ffn.0.bias", "encoder.blocks.1.x", "encoder.blocks.2.x"]
    assert layer_of("stem_layers.1.ffn.0.bias") == "stem_layers.1"


def test_a_layer_is_what_stands_in_a_list_of_the_encoder() -> None:
    assert layer_of("encoder.jump.block.layers.3.hyper.project.weight") == "encoder.jump.block.layers.3"
    assert layer_of("encoder.encoder.blocks.12.ffn.0.weight") == "encoder.encoder.blocks.12"
    assert layer_of("encoder.block.policy.norm.weight") is None
    assert layer_of("stem.norms.0.weight") is None


def test_parts_are_named_as_wholes() -> None:
    assert whole_parts(["a.b.c", "a.b.d", "a.e", "h.x", "h.y"], ["a.f"]) == ["a.b", "a.e", "h"]
    assert whole_parts(["a.b.c"], []) == ["a"]
    assert whole_parts([], ["a"]) == []


def test_parts_are_found_by_their_own_names_and_by_the_common_ones() -> None:
    model = make_model("skip_transformer")
    found = find_parts(model, ["stem", "encoder.blocks.1", "encoder.block.layers.1"], "trainer.freeze")
    assert found == [model.stem, *[model.encoder.get_submodule("block.layers.1")] * 2]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("stemm", "stem"),
        ("encoder.blocks.7", r"encoder.blocks.\d"),
        ("frontend", r"\w+"),  # has no weights
        ("x", "stem or encoder or head"),
    ],
)
def test_a_name_that_no_part_has_is_refused_with_the_nearest(name: str, near: str) -> None:
    rule = f"trainer.freeze must name parts of the model that have weights, got {name}. Did you mean {near}"
    with pytest.raises(ValueError, match=rule):
        find_parts(make_model("dense"), [name], "trainer.freeze")
