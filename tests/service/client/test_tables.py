import pytest

from rightrank.service.cli.console import out
from rightrank.service.client import tables


def test_what_is_reported_is_told_as_the_publishers():
    facts = {"params": "5", "macs": "9", "budget": "0.5", "accuracy": "unmeasured", "reported": 'wer="0.083"'}
    assert tables.sentence(facts, "params").endswith('unmeasured; its publisher reports wer="0.083"')
    point = {"budget": 0.3, "params": 5, "macs": 9, "bytes": 88666, "metric": None, "accuracy": None, "low": None}
    point |= {"method": "cut", "reported": [{"metric": "wer", "value": 0.083, "n": 20}, {"metric": "cer", "value": 2}]}
    with out.capture() as captured:
        out.print(tables.table_of_sizes([point, {**point, "reported": []}]))
    assert "wer 0.083 (n=20)," in captured.get() and "cer 2" in captured.get() and "None" not in captured.get()


def test_an_accuracy_that_nobody_measured_is_not_shown_as_a_number():
    facts = {"params": "5", "macs": "9", "budget": "0.5", "accuracy": "unmeasured"}
    assert tables.sentence(facts, "params") == (
        "5 parameters, 9 MACs (50.0% of the original's parameters), accuracy unmeasured"
    )


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"removed": 0}, None),
        ({}, "the parameters"),
        ({"exact": True, "compared": 0}, "the parameters, without loss"),
        ({"exact": False, "compared": 0}, "the parameters, with the same outputs for random inputs"),
        ({"exact": False, "compared": 256}, "the parameters, with the same outputs for 256 calibration inputs"),
    ],
)
def test_show_says_what_was_removed_and_how_it_is_known_that_nothing_is_lost(more, shown):
    model = {"id": "m1", "names": [], "params": 4000, "macs": 9, "criterion": "logit", "layers": []}
    model["min_budget"] = {"params": 0.1}
    model["eliminated"] = {"removed": 1200, "params_before": 4000, "params_after": 1000, "rejected": "", **more}
    with out.capture() as captured:
        out.print(tables.summary_of(model))
    words = " ".join(captured.get().split())
    assert ("1,200 zero channels, 75.0% of " in words) == (shown is not None)
    assert shown is None or f"1,200 zero channels, 75.0% of {shown} Layers" in words


def test_show_says_what_no_layer_covers():
    model = {"id": "m1", "names": [], "params": 4000, "macs": 9, "criterion": "logit", "layers": []}
    model["min_budget"] = {"params": 0.83}
    tensors = [
        {"name": name, "params": params, "share": params / 4000, "read_by": readers, "reason": reason}
        for name, params, readers, reason in (
            ("words.weight", 2760, ["embedding", "linear"], ""),
            ("deep.weight", 400, ["convolution"], "no rank is smaller than the whole"),
            ("places", 40, ["add"], ""),
            ("bias", 20, ["add"], ""),
        )
    ]
    rest = {"params": 3240, "share": 0.81, "tensors": tensors, "others": {"tensors": 9, "params": 20}}

    def shown():
        with out.capture() as captured:
            out.print(tables.summary_of(model))
        return [line.strip() for line in captured.get().splitlines()]

    before = shown()
    model["uncovered"] = rest
    assert [line for line in shown() if line not in before] == [
        "Uncovered   81.0% of the parameters are in no layer that can be cut",
        "69.0% words.weight, read by embedding and linear",
        "10.0% deep.weight, no rank is smaller than the whole",
        "1.0% places, read by add",
        "1.0% in 10 more",
    ]
    model["uncovered"] = {"params": 40, "share": 0.01, "tensors": tensors[2:3], "others": {"tensors": 0, "params": 0}}
    assert len(shown()) == len(before) + 2


def test_what_was_not_measured_is_no_number_for_scripts():
    facts = {"params": "5", "budget": "0.5", "accuracy": "unmeasured", "accuracy-interval": "0.5, 1.0"}
    read = {"params": 5, "budget": 0.5, "accuracy": None, "accuracy-interval": [0.5, 1.0]}
    assert tables.typed(facts) == read
