"""Class ids: every class once, tables that invert, images in the right steps."""

from __future__ import annotations

from hashlib import blake2b
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barm.errors import UserError
from barm.labels import IGNORE, JOINT, LabelPolicy, TaskPlan, voc_orders

VOC = {  # task -> sizes of the groups without background; spec/ssul.md section 3
    "offline": [20], "19-1": [19, 1], "15-5": [15, 5], "15-1": [15] + [1] * 5, "10-1": [10] + [1] * 10,
    "5-5": [5] * 4, "5-3": [5] + [3] * 5, "5-1": [5] + [1] * 15, "2-2": [2] * 10, "2-1": [2] + [1] * 18,
}  # fmt: skip
ADE = {
    "offline": [150], "100-50": [100, 50], "100-10": [100] + [10] * 5, "100-5": [100] + [5] * 10,
    "50-50": [50] * 3, "50-20": [50] + [20] * 5,
}  # fmt: skip


SETTINGS = st.sampled_from(["overlap", "disjoint", "partitioned"])


@st.composite
def plans(draw, setting=SETTINGS):
    """Plans over permuted ids with groups of any size."""
    order = draw(st.permutations(range(1, draw(st.integers(2, 20)) + 1)))
    cuts = sorted(draw(st.sets(st.integers(1, len(order) - 1), max_size=5)))
    edges = [0, *cuts, len(order)]
    groups = tuple(tuple(order[a:b]) for a, b in pairwise(edges))
    return TaskPlan(groups, draw(setting), draw(st.integers(0, 3)))


images = st.sets(st.integers(1, 20), max_size=6)


@pytest.mark.parametrize(("num_classes", "tasks"), [(20, VOC), (150, ADE)])
def test_published_tasks(num_classes, tasks):
    for task, sizes in tasks.items():
        plan = TaskPlan.parse(task, num_classes)
        assert [len(g) for g in plan.groups] == sizes
        assert list(plan.classes) == list(range(1, num_classes + 1))


def test_published_orders():
    assert sorted(voc_orders()) == [chr(c) for c in range(ord("b"), ord("w") + 1)]
    plan = TaskPlan.parse("15-1_b", 20)
    assert plan.groups == ((12, 9, 20, 7, 15, 8, 14, 16, 5, 19, 4, 1, 13, 2, 11), (17,), (3,), (6,), (18,), (10,))
    assert TaskPlan.parse("15-1_w", 20).groups[1:] == ((3,), (15,), (6,), (5,), (17,))


@given(plans())
def test_every_class_is_learned_once(plan):
    learned = [i for step in plan.steps() for i in step.new]
    assert sorted(learned) == sorted(set(learned)) == sorted(plan.classes)
    assert plan[len(plan) - 1].seen == plan.classes
    for step in plan.steps():
        assert step.num_seen == 1 + len(step.seen) == step.num_old + len(step.new)


@given(plans())
def test_tables_invert(plan):
    for step in plan.steps():
        train, test, joint = plan.train_lut(step), plan.eval_lut(step), plan.train_lut(step, JOINT)
        for channel, class_id in enumerate(step.seen, start=1):
            assert test[class_id] == joint[class_id] == channel
            assert train[class_id] == (channel if class_id in step.new else 0)
        for class_id in set(plan.classes) - set(step.seen):
            assert train[class_id] == joint[class_id] == 0
            assert test[class_id] == IGNORE
        assert train[0] == test[0] == 0
        assert train[IGNORE] == test[IGNORE] == IGNORE


def test_policies():
    plan = TaskPlan.parse("2-1", 4)
    step = plan[1]
    assert plan.train_lut(step, LabelPolicy(hidden=IGNORE))[[0, 1, 3, 4, 255]].tolist() == [0, 255, 3, 255, 255]
    assert plan.eval_lut(step, LabelPolicy(unseen=0))[[1, 3, 4]].tolist() == [1, 3, 0]


@given(plans(st.just("overlap")), images)
def test_disjoint_is_a_subset_of_overlap(plan, present):
    disjoint = TaskPlan(plan.groups, "disjoint")
    for step in plan.steps():
        assert plan.selects(step, present) == bool(present & set(step.new))
        later = set(plan.classes) - set(step.seen)
        assert disjoint.selects(step, present) == (plan.selects(step, present) and not present & later)


@given(plans(st.just("partitioned")), images, st.text(max_size=5))
def test_partitions_are_disjoint_and_complete(plan, present, key):
    chosen = [s.index for s in plan.steps() if plan.selects(s, present, key)]
    assert len(chosen) == (1 if present & set(plan.classes) else 0)
    if chosen:
        assert present & set(plan[chosen[0]].new)
        assert [plan.selects_seen(s, present, key) for s in plan.steps()] == [
            s.index >= chosen[0] for s in plan.steps()
        ]


def test_partition_uses_every_class_of_an_image():
    plan = TaskPlan.parse("2-1", 4, "partitioned")
    steps = [next(s.index for s in plan.steps() if plan.selects(s, {1, 3, 4}, f"image {i}")) for i in range(300)]
    assert all(70 < steps.count(i) < 130 for i in range(3))


@given(plans(st.just("partitioned")), images, st.text(max_size=5))
def test_the_draw_of_a_partition_depends_on_seed_and_name(plan, present, key):
    """Its place in the classes by order of learning, so that a partition never changes under a finished run."""
    shown = [i for i in plan.classes if i in present]
    if shown:
        digest = blake2b(f"{plan.seed}:{key}".encode(), digest_size=8).digest()
        drawn = shown[int.from_bytes(digest, "big") % len(shown)]
        assert [s.index for s in plan.steps() if plan.selects(s, present, key)] == [
            s.index for s in plan.steps() if drawn in s.new
        ]


@given(plans(), images, st.text(max_size=5))
def test_joint_training_sees_the_images_of_all_steps_so_far(plan, present, key):
    for step in plan.steps():
        earlier = [plan.selects(s, present, key) for s in plan.steps()[: step.index + 1]]
        assert plan.selects_seen(step, present, key) == any(earlier)


@pytest.mark.parametrize("setting", ["overlap", "disjoint", "partitioned"])
def test_an_image_s_classes_are_looked_at_once(setting):
    """Not once per class or per step: ADE20K has 20 210 images, 150 classes and up to 11 steps."""
    looks = []

    class Classes:
        def __iter__(self):
            looks.append(1)
            return iter((3, 140, 255))

    plan = TaskPlan.parse("100-5", 150, setting)
    for selects in (plan.selects, plan.selects_seen):
        looks.clear()
        selects(plan[9], Classes())
        assert len(looks) == 1


@pytest.mark.parametrize(
    ("task", "classes", "says"),
    [
        ("15-1x", 20, "did you mean '15-1'"),
        ("15-2", 20, "does not divide"),
        ("20-1", 20, "does not divide"),
        ("0-1", 20, "does not divide"),
        ("15-1_z", 20, "b..w"),
        ("15-1_b", 150, "20 VOC classes"),
        ("", 20, "unknown task"),
    ],
)
def test_bad_tasks(task, classes, says):
    with pytest.raises(UserError, match=says):
        TaskPlan.parse(task, classes)


def test_groups_by_name():
    names = ("background", "cat", "dog", "cow", "fox")
    plan = TaskPlan.from_names([["dog"], ["fox", "cat"]], names)
    assert plan.groups == ((2,), (4, 1))
    assert plan.eval_lut(plan[0])[[1, 2, 3, 4]].tolist() == [255, 1, 0, 255]  # cow is never learned: background
    with pytest.raises(UserError, match="did you mean 'dog'"):
        TaskPlan.from_names([["dgo"]], names)
    with pytest.raises(UserError, match="learned once"):
        TaskPlan.from_names([["dog"], ["dog"]], names)
    with pytest.raises(UserError, match="at least one class"):
        TaskPlan.from_names([["dog"], []], names)
    with pytest.raises(UserError, match=r"steps 0\.\.1"):
        plan[2]
