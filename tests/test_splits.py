"""splits.py: a clip's side depends on its own name or group, and no part lacks a class that could have it."""

from collections import Counter

import pytest

from hopscotch.data.splits import by_fold, deal, into_folds, into_splits, place


def units(count: int, label: str = "a", prefix: str = "") -> dict[str, frozenset[str]]:
    return {f"{prefix}{label}/{i}.wav": frozenset({label}) for i in range(count)}


def test_the_hash_of_a_name_is_the_same_on_every_machine() -> None:
    assert place("cat/0.wav") == 0.2986817850002801
    assert 0 <= place("") < 1


def test_adding_clips_moves_none_that_was_there() -> None:
    few = units(200, "a") | units(200, "b")
    many = few | units(300, "a", "new_") | units(100, "c")
    before, after = into_splits(few, 0.1, 0.1), into_splits(many, 0.1, 0.1)
    assert before == {name: after[name] for name in few}
    assert into_folds(few, 5) == {name: fold for name, fold in into_folds(many, 5).items() if name in few}


def test_another_share_moves_nothing_between_validation_and_test() -> None:
    clips = units(1000)
    small, large = into_splits(clips, 0.1, 0.1), into_splits(clips, 0.2, 0.3)
    assert {(small[name], large[name]) for name in clips} == {
        ("test", "test"), ("val", "val"), ("train", "train"), ("train", "test"), ("train", "val"),
    }  # fmt: skip


def test_each_class_is_split_in_the_same_shares() -> None:
    clips = units(2000, "a") | units(2000, "b")
    splits = into_splits(clips, 0.1, 0.2)
    for label in "ab":
        counts = Counter(split for name, split in splits.items() if name.startswith(label))
        assert counts["val"] == pytest.approx(200, abs=50)
        assert counts["test"] == pytest.approx(400, abs=60)


@pytest.mark.parametrize(("count", "parts"), [(3, {"train", "val", "test"}), (2, {"train", "test"}), (1, {"train"})])
def test_a_rare_class_has_a_clip_in_training_then_test_then_validation(count: int, parts: set[str]) -> None:
    for prefix in map(str, range(20)):
        clips = units(30, "common") | units(count, "rare", prefix)
        splits = into_splits(clips, 0.1, 0.1)
        assert {splits[name] for name in units(count, "rare", prefix)} == parts


def test_groups_of_several_classes_leave_each_part_a_speaker() -> None:
    speakers = {f"s{i}": frozenset({"yes", "no"}) for i in range(6)}
    assert set(into_splits(speakers, 0.1, 0.1).values()) == {"train", "val", "test"}
    assert set(into_folds(speakers, 5).values()) == {"1", "2", "3", "4", "5"}


def test_a_unit_that_is_its_parts_only_one_of_another_class_stays() -> None:
    found = {f"u{i}": frozenset({"a"}) for i in range(3)} | {"both": frozenset({"a", "b"})}
    assert into_splits(found, 0.1, 0.1)["both"] == "train"


def test_two_clips_are_too_few_for_three_splits() -> None:
    with pytest.raises(ValueError, match=r"data: a split needs at least 3 clips or groups, got a/0\.wav, a/1\.wav\."):
        into_splits(units(2), 0.1, 0.1)


def test_a_part_of_no_share_gets_nothing() -> None:
    assert set(deal(units(500), (0.0, 0.5, 0.5), (1, 2)).values()) == {1, 2}


def test_the_fold_after_the_tests_is_for_validation_and_ten_follows_nine() -> None:
    folds = [str(number) for number in range(1, 11)]
    assert by_fold(folds, "9")[8:] == ["test", "val"]
    assert by_fold(folds, "10") == ["val", *["train"] * 8, "test"]


@pytest.mark.parametrize(
    ("folds", "words"),
    [(["1", "2", "3"], "data.fold must be one of 1, 2, 3, got 4."), (["4", "5"], "need at least 3 folds, got 4, 5.")],
)
def test_a_fold_that_is_not_there_and_too_few_folds_are_refused(folds: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        by_fold(folds, "4")


def test_a_fold_to_validate_on_may_be_named() -> None:
    folds = ["1", "2", "3", "4", "5"]
    assert by_fold(folds, "5") == ["val", "train", "train", "train", "test"]
    assert by_fold(folds, "5", 4) == ["train", "train", "train", "val", "test"]
    for wrong in (5, "6"):
        with pytest.raises(
            ValueError, match=rf"data\.val_fold must be one of 1, 2, 3, 4, 5, and not data\.fold=5, got {wrong}"
        ):
            by_fold(folds, "5", wrong)
