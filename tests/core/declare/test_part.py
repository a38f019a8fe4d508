"""Declarations: validated as a whole, changed by dotted name, written and read back equal."""

from abc import ABC, abstractmethod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from core.augment import Albumentation, CutMix, HorizontalFlip, RandomCrop
from core.common.errors import UserError
from core.common.text import snake
from core.declare.part import Part
from core.declare.tree import choices
from core.losses import CrossEntropy, FocalLoss
from core.optimizers import SAM, SGD
from core.schedules import Cosine
from experiments.pictures import EXPERIMENT


class Shape(Part, ABC):
    @abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    side: float = Field(1.0, gt=0)

    def area(self) -> float:
        return self.side**2


def mistakes(changes) -> list[str]:
    with pytest.raises(UserError) as caught:
        EXPERIMENT.but(changes)
    return caught.value.lines


def test_a_declaration_is_changed_by_dotted_name_and_never_in_place():
    changed = EXPERIMENT.but({"loss": FocalLoss(), "optimizer.lr": 0.2, "augment.random_crop.padding": 2})
    assert (changed.loss, changed.optimizer.lr, changed.augment[0].padding) == (FocalLoss(), 0.2, 2)
    assert EXPERIMENT.optimizer.lr == 0.1
    with pytest.raises(ValueError, match="frozen"):
        EXPERIMENT.optimizer.lr = 3


def test_a_part_is_replaced_and_its_fields_set_in_one_call_in_any_order():
    expected = FocalLoss(gamma=1.0)
    assert EXPERIMENT.but({"loss.gamma": "1", "loss": "FocalLoss"}).loss == expected
    assert EXPERIMENT.but({"loss": "FocalLoss", "loss.gamma": 1}).loss == expected


def test_an_absent_part_is_made_by_setting_one_of_its_fields():
    assert EXPERIMENT.but({"ema.decay": 0.9}).ema.decay == 0.9


def test_steps_are_named_by_class_and_repeated_ones_numbered():
    steps = (RandomCrop(), HorizontalFlip(), HorizontalFlip(p=0.1))
    changed = EXPERIMENT.but({"augment": steps}).but({"augment.horizontal_flip_2.p": 0.3})
    assert changed.augment == (RandomCrop(), HorizontalFlip(), HorizontalFlip(p=0.3))


def test_every_mistake_is_reported_at_once():
    lines = mistakes(
        {
            "optimizer.lr": -1,
            "epochs": "many",
            "los": 3,
            "loss": "FocalLos",
            "augment.random_crp.padding": 1,
            "optimizer.momentun": 0.9,
            "schedule": CrossEntropy(),
        }
    )
    assert len(lines) == 7
    text = "\n".join(lines)
    for expected in (
        "optimizer.lr: should be greater than 0 (got -1)",
        "epochs: should be a valid integer",
        "los: unknown field; did you mean loss",
        "FocalLos is not a Loss; did you mean FocalLoss",
        "augment.random_crp.padding: unknown field; did you mean augment.random_crop.padding",
        "optimizer.momentun: unknown field; did you mean optimizer.momentum",
        "CrossEntropy is not a Schedule; choose one of",
    ):
        assert expected in text


def test_fields_of_a_part_put_in_place_by_the_same_call_are_suggested():
    assert "did you mean loss.gamma" in mistakes({"loss": "FocalLoss", "loss.gama": 1})[0]


def test_a_part_that_is_the_default_of_one_put_in_place_by_the_same_call_is_changed():
    assert EXPERIMENT.but({"optimizer": "SAM", "optimizer.base.lr": 0.3}).optimizer == SAM(base=SGD(lr=0.3))
    assert EXPERIMENT.but({"optimizer": SAM, "optimizer.base.momentum": 0.5}).optimizer.base == SGD(momentum=0.5)
    view = EXPERIMENT.but({"method": "Consistency", "method.view.horizontal_flip.p": 0.3}).method.view
    assert view == (HorizontalFlip(p=0.3),)
    assert "did you mean" in (line := mistakes({"optimizer": "SAM", "optimizer.lr": 0.1})[0])
    assert "optimizer.base.lr" in line


def test_what_a_step_named_by_its_class_lacks_is_reported_by_its_own_name():
    assert mistakes({"augment": "HorizontalFlip,Albumentation"}) == ["augment.albumentation.name: is required"]
    assert mistakes({"augment": "HorizontalFlip,RandomCropp"})[0].startswith("augment: RandomCropp is not an Augment")


def test_of_two_parts_of_one_name_the_one_that_the_field_takes_is_suggested():
    assert "did you mean loss.beta" in mistakes({"loss": "ClassBalanced", "loss.betta": 0.9})[0]
    assert "sampling.beta" not in mistakes({"sampling": "ClassBalanced", "sampling.betta": 0.9})[0]


def test_a_mistake_among_several_numbers_is_reported_for_their_field():
    assert mistakes({"optimizer": "Adam", "optimizer.betas": "0.9,nan"})[0].startswith("optimizer.betas: should be")
    assert mistakes({"optimizer.groups": "fc.*=nan"})[0].startswith("optimizer.groups: should be")


def test_infinity_and_nan_are_refused():
    assert len(mistakes({"optimizer.lr": "inf", "optimizer.weight_decay": "nan"})) == 2


RECORDS = st.fixed_dictionaries(
    {
        "optimizer.lr": st.floats(1e-6, 10),
        "epochs": st.integers(1, 1000),
        "loss": st.sampled_from([CrossEntropy(label_smoothing=0.1), FocalLoss(gamma=1.5)]),
        "augment": st.lists(
            st.sampled_from([RandomCrop(padding=2), HorizontalFlip(), CutMix(alpha=0.5)]), max_size=4
        ).map(tuple),
        "clip_grad_norm": st.none() | st.floats(0.1, 5),
        "seed": st.integers(0, 2**63 - 1),
    }
)


@given(RECORDS)
def test_a_record_reads_back_equal(changes):
    import json

    changed = EXPERIMENT.but(changes)
    assert type(EXPERIMENT).read(json.loads(json.dumps(changed.record()))) == changed


def test_a_record_names_classes_and_never_imports_what_it_names(tmp_path, monkeypatch):
    marker = tmp_path / "imported"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    record = EXPERIMENT.record()
    assert record["loss"]["class"] == "core.losses.cross_entropy.CrossEntropy"
    with pytest.raises(UserError, match=r"evil\.Loss is not a Loss"):
        type(EXPERIMENT).read(record | {"loss": {"class": "evil.Loss"}})
    assert not marker.exists()


def test_a_record_with_a_field_that_no_longer_exists_is_refused_by_name():
    with pytest.raises(UserError, match=r"color: unknown field"):
        type(EXPERIMENT).read(EXPERIMENT.record() | {"color": "red"})


def test_the_flat_view_names_every_field():
    flat = EXPERIMENT.flat()
    assert flat["loss"] == "CrossEntropy"
    assert flat["augment"] == "random_crop, horizontal_flip"
    assert flat["augment.random_crop.padding"] == 4
    assert flat["stopping.patience"] == EXPERIMENT.stopping.patience


def test_the_defaults_are_those_of_the_flat_view():
    given = EXPERIMENT.but({"optimizer": SAM(base=SGD(lr=0.3)), "augment": (RandomCrop(padding=3), CutMix())})
    flat, defaults = given.flat(), given.defaults()
    assert defaults.keys() < flat.keys()
    assert (defaults["augment"], defaults["epochs"], defaults["optimizer.rho"]) == ((), 10, 0.05)
    assert (flat["augment.random_crop.padding"], defaults["augment.random_crop.padding"]) == (3, 4)
    assert defaults["loss"] == "CrossEntropy"
    assert "model" not in defaults


def test_of_two_classes_of_one_name_the_recorded_module_decides():
    """An experiment may have a loss of its own that is called like one of core's, and modules move."""

    class Canvas(Part, ABC):
        pass

    core, own = (type("Plain", (Canvas,), {"__module__": module}) for module in ("core.losses.old", "experiments.mine"))
    assert [type(Canvas.read(kind().record())) for kind in (core, own)] == [core, own]
    assert type(Canvas.read({"class": "core.losses.new.Plain"})) is core
    assert type(Canvas.read({"class": "experiments.mine.losses.Plain"})) is own
    assert type(Canvas.read("Plain")) is own


def test_ones_own_part_is_one_class():
    class Canvas(Part):
        shape: Shape = Square()

    assert Canvas().but({"shape.side": "3"}).shape.area() == 9
    assert "Square" in choices(Shape)
    assert "Shape" not in choices(Shape)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RandomCrop", "random_crop"),
        ("SGD", "sgd"),
        ("AdamW", "adam_w"),
        ("MLPMixer", "mlp_mixer"),
        ("CutMix", "cut_mix"),
    ],
)
def test_snake(name, expected):
    assert snake(name) == expected


def test_a_step_of_albumentations_goes_by_the_name_of_its_transform():
    changed = EXPERIMENT.but({"augment": (Albumentation(name="ColorJitter", arguments={"p": 0.5}),)})
    assert changed.but({"augment.color_jitter.arguments.p": 0.1}).augment[0].arguments == {"p": 0.1}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"clip_norm": 1}, "clip_norm: unknown field; it is now called clip_grad_norm"),
        ({"schedule.final": 0.1}, "schedule.final: unknown field; it is now called schedule.min_lr_ratio"),
        ({"stopping.metric": "x"}, "stopping.metric: unknown field; it is now called stopping.monitor"),
        ({"freeze.until": 3}, "freeze.until: unknown field; it is now called freeze.unfreeze_epoch"),
        (
            {"model.checkpointing": True},
            "checkpointing: unknown field; it is now called model.grad_checkpointing",
        ),
        ({"loss": "GeneralisedCrossEntropy"}, "is not a Loss; it is now called GeneralizedCrossEntropy"),
        (
            {"augment": "Translate", "augment.translate.share": 0.1},
            "unknown field; it is now called augment.translate.fraction",
        ),
        (
            {"augment": "RandomErasing", "augment.random_erasing.largest": 0.3},
            "it is now part of augment.random_erasing.scale, (min, max)",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_old_name_is_refused_with_the_new_one(changes, line):
    assert mistakes(changes)[0].endswith(line)


def test_an_old_name_is_refused_with_the_new_one_where_a_part_is_written_too():
    with pytest.raises(ValidationError, match="unknown field; it is now called min_lr_ratio") as caught:
        Cosine(final=0.1, warmup_epochs=-1)
    assert len(caught.value.errors()) == 2
    with pytest.raises(UserError, match=r"schedule\.final: unknown field; it is now called min_lr_ratio"):
        type(EXPERIMENT).read(EXPERIMENT.record() | {"schedule": {"class": "Cosine", "final": 0.1}})


@pytest.mark.parametrize("name", ["val_acc", "acc", "top1", "val/acc"])
def test_the_usual_names_of_accuracy_get_its_name(name):
    (line,) = mistakes({"monitor": name})
    assert line.endswith("did you mean val/accuracy?")


def test_a_class_that_is_none_is_named_by_its_own_field_when_others_below_it_are_set():
    assert mistakes({"optimizer": "SGDD", "optimizer.lr": 1})[0].startswith("optimizer: SGDD is not an Optimizer")
