"""A pipeline as it is declared and checked: what each verb returns, the names of stages, and what is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import DeclarationError
from celery_partitions.pipeline.builder import Built, build
from celery_partitions.pipeline.graph import Pipeline
from celery_partitions.pipeline.sinks import RedisList, RedisStream, TaskSink
from tests.model.piped import Log, begin, headers_of, logging, payloads, raws_of, read, run, send, stage, states

OUT = RedisList("out")


def key(value: Any) -> str:
    return str(value)


def other_key(value: Any) -> str:
    return f"other {value}"


def same(value: Any) -> Any:
    return value


def keyed(name: str = "in") -> Pipeline:
    return begin(name).key_by(key)


def warned(make: Callable[[], Built]) -> tuple[Built, list[str]]:
    """The built application, and the stages for which a warning says that they have one key."""
    made = make()
    return made, [text.split("'")[3] for text in made.warnings]


# Verbs.


@pytest.mark.parametrize("maxlen", [0, -1, 1e6, True, "10"])
def test_the_length_of_a_stream_must_be_an_integer(maxlen: Any) -> None:
    """If Redis refused it during a commit, the commit would be incomplete."""
    with pytest.raises(DeclarationError, match=r"RedisStream\('alerts'\): maxlen must be"):
        RedisStream("alerts", maxlen=maxlen)
    assert RedisStream("alerts", maxlen=1).maxlen == 1


def test_each_verb_returns_a_new_pipeline_and_one_beginning_can_have_several_ends() -> None:
    begun = begin()
    left, right = begun.to(stage(same, "left")), begun.to(stage(same, "right"))
    assert begun.open_ends != left.open_ends != right.open_ends
    both = left.to_sink(RedisList("l")).merge(right.to_sink(RedisList("r")))
    assert payloads(run(build("app", both), [send(1)])) == [1, 1]
    alone = build("app", left.to_sink(RedisList("l")))
    assert list(alone.stages) == ["left"] and list(alone.sinks) == ["l"]


def test_a_clone_is_continued_separately() -> None:
    begun = keyed().to(stage(same, "one"))
    cloned = begun.clone()
    assert list(build("app", cloned.to(stage(same, "two")).to_sink(OUT)).stages) == ["one", "two"]
    assert list(build("app", begun.to_sink(OUT)).stages) == ["one"]
    assert begun.to_sink(OUT).clone().ends and not begun.ends


def test_a_pipeline_merged_with_itself_outputs_each_message_once() -> None:
    begun = keyed()
    assert payloads(run(build("app", begun.merge(begun).to_sink(OUT)), [send(1)])) == [1]
    ended = begun.to_sink(OUT)
    assert payloads(run(build("app", ended.merge(ended.clone())), [send(1)])) == [1]


def test_each_of_several_sinks_gets_every_output() -> None:
    app = build("app", keyed().to_sinks([OUT, RedisStream("stream"), TaskSink("notify")]))
    assert [type(one).__name__ for one in run(app, [send(1)]).emitted] == ["Delivery", "Delivery", "Push"]


def test_a_pipeline_may_end_without_a_sink_to_keep_states() -> None:
    app = build("app", keyed().to(logging("log")).to_sinks([]))
    assert states(app, run(app, [send(1)])) == {"log": {"1": [1]}}


# Names.


def test_a_second_use_is_named_name_2_and_a_given_name_is_kept() -> None:
    log = logging("log")
    app = build("app", keyed().to(log).to(log).to(log, name="mine").to(log).to_sink(OUT))
    assert list(app.stages) == ["log", "log 2", "mine", "log 3"]


def test_names_do_not_change_when_other_stages_are_added() -> None:
    log, extra = logging("log"), logging("extra")
    first, second = keyed("a").to(log), keyed("b").to(log)
    before = build("app", first.to_sink(OUT).merge(second.to_sink(RedisList("o"))))
    first, second = keyed("a").to(extra).to(log), keyed("b").to(extra).to(log)
    third = keyed("c").to(log)
    after = build("app", first.to_sink(OUT).merge(third.to_sink(RedisList("t"))).merge(second.to_sink(RedisList("o"))))
    assert set(before.stages) <= set(after.stages)
    for app in (before, after):
        outcome = run(app, [send(1, "x", "a"), send(2, "y", "b")])
        assert states(app, outcome)["log"] == {"1": [1]} and states(app, outcome)["log 2"] == {"2": [2]}


def test_the_same_computation_in_two_stages_has_two_sets_of_states() -> None:
    log = logging("log")
    app = build("app", keyed().to(log).to(log).to_sink(OUT))
    assert states(app, run(app, [send(1)])) == {"log": {"1": [1]}, "log 2": {"1": [1]}}


# Keys.


def test_a_key_applies_until_the_next_key_by() -> None:
    seen = []

    def look(value: Any, context: Any) -> Any:
        seen.append(context.key)
        return value

    looking = [stage(look, f"look {n}") for n in range(4)]
    begun = keyed().to(looking[0]).to(looking[1]).key_by(other_key).to(looking[2]).to(looking[3])
    app = build("app", begun.to_sink(RedisStream("s")))
    raws = [send(1)]
    while raws:
        outcome = run(app, raws)
        raws = raws_of(outcome)
    assert seen == ["1", "1", "other 1", "other 1"]
    assert outcome.emitted[0].key == "other 1"  # type: ignore[union-attr]


def test_a_source_with_a_key_by_directly_after_it_has_its_key_at_the_producer() -> None:
    app = build("app", begin().key_by(key).key_by(other_key).to(logging("log")).to_sink(OUT))
    assert app.sources["in"].key_of(1) == "other 1"
    assert not raws_of(run(app, [send(1)]))


@pytest.mark.parametrize("extract", [str, operator.itemgetter("a"), operator.attrgetter("real"), hash, lambda value: value])
def test_builtin_functions_can_be_key_extractors(extract: Any) -> None:
    app = build("app", begin().key_by(extract).to(logging("log")).to_sink(OUT))
    assert app.sources["in"].extract is extract


def test_a_sink_after_a_key_by_is_not_a_hop_and_gets_the_new_key() -> None:
    app = build("app", keyed().to(logging("log")).key_by(other_key).to_sink(RedisStream("s")))
    (entry,) = run(app, [send(1)]).emitted
    assert type(entry).__name__ == "Delivery" and entry.key == "other 1"  # type: ignore[union-attr]


def test_before_the_first_key_by_a_source_has_one_key() -> None:
    app = build("app", begin().to(stage(same, "plain")).key_by(key).to(logging("log")).to_sink(OUT))
    assert {app.sources["in"].key_of(value) for value in range(9)} == {"in"}
    assert [headers_of(raw)["partition_key"] for raw in raws_of(run(app, [send(1), send(2)]))] == ["1", "2"]


def test_two_sources_without_a_key_share_one_state_with_a_warning() -> None:
    app, warnings = warned(
        lambda: build("app", begin("a").to(stage(same, "x")).merge(begin("b")).to(logging("log")).to_sink(OUT))
    )
    assert warnings ==  ["log"]
    assert app.sources["a"].key_of(1) == app.sources["b"].key_of(2) == "log"


def test_sources_that_are_joined_by_a_third_share_one_state_too() -> None:
    a, b, c = begin("a"), begin("b"), begin("c")
    one, two = a.merge(c).to(logging("one")), b.merge(c).to(logging("two"))
    app, warnings = warned(lambda: build("app", one.to_sink(OUT).merge(two.to_sink(RedisList("o")))))
    assert len({source.key_of(1) for source in app.sources.values()}) == 1
    assert warnings ==  ["one", "two"]


def test_collect_means_one_key_with_a_warning() -> None:
    app, warnings = warned(lambda: build("app", keyed().to(stage(same, "plain")).collect().to(logging("log")).to_sink(OUT)))
    assert warnings ==  ["log"]
    raws = raws_of(run(app, [send(1, "a"), send(2, "b")]))
    assert {item.key for item in read(app, raws)} == {"log"}  # type: ignore[union-attr]


def test_a_source_with_collect_directly_after_it_has_its_key_at_the_producer() -> None:
    app, warnings = warned(lambda: build("app", begin().collect().to(logging("log")).to_sink(OUT)))
    assert app.sources["in"].key_of(1) == "log" and warnings == ["log"]


def test_a_stage_that_is_collected_in_several_ways_has_one_state() -> None:
    a, b = keyed("a").collect().to(stage(same, "x")), keyed("b").collect().to(stage(same, "y"))
    app, _ = warned(lambda: build("app", a.merge(b).merge(begin("c")).to(logging("log")).to_sink(OUT)))
    assert {source.key_of(1) for source in app.sources.values()} == {"log"}


def test_there_is_no_warning_for_stateless_stages_without_key_by() -> None:
    _, warnings = warned(lambda: build("app", begin().to(stage(same, "x")).key_by(key).to(logging("log")).to_sink(OUT)))
    assert warnings ==  []


# Refusals. Each names the stage.


def refused(make: Callable[[], object], *says: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        make()
    for text in says:
        assert text in str(caught.value), caught.value


def no_parameter() -> None: ...


def three(a: Any, b: Any, c: Any) -> None: ...


def test_a_wrong_number_of_parameters_is_refused_with_the_stages_name() -> None:
    refused(lambda: stage(no_parameter, "short"), "'short'", "(message) or (message, context)")
    refused(lambda: stage(three, "long"), "'long'")
    refused(lambda: stage(same, "stateless", state=Log), "'stateless'", "(message, state)")
    refused(lambda: begin().key_by(three), "key_by()", "key extractor")
    refused(lambda: begin().key_by("symbol"), "key_by()")  # type: ignore[arg-type]


def test_a_pipeline_must_end_in_a_sink_and_nothing_may_follow_a_sink() -> None:
    refused(lambda: build("app", keyed().to(stage(same, "last"))), "no sink", "'last'")
    refused(lambda: build("app", begin("lonely")), "no sink", "'lonely'")
    ended = keyed().to_sink(OUT)
    refused(lambda: ended.to(stage(same, "late")), "'late'", "ends in a sink")
    refused(lambda: ended.key_by(key), "key_by", "ends in a sink")
    refused(lambda: ended.collect(), "collect", "ends in a sink")
    refused(lambda: ended.to_sink(OUT), "to_sink", "ends in a sink")
    refused(lambda: ended.merge(keyed()), "merge()")
    refused(lambda: keyed().merge(ended), "merge()")


def test_names_already_in_use_are_refused() -> None:
    refused(lambda: build("app", keyed().to(stage(same, "a")).to(stage(key, "b"), name="a").to_sink(OUT)), "'a'", "more than one")
    refused(lambda: build("app", keyed("a").to(stage(same, "a")).to_sink(OUT)), "'a'", "more than one")
    refused(lambda: build("app", keyed("a").merge(keyed("a")).to_sink(OUT)), "'a'", "more than one")
    refused(lambda: build("app", keyed().to(stage(same, "a")).to(stage(key, "a")).to_sink(OUT)), "two computations", "'a'")
    refused(lambda: build("app", keyed().to(stage(same, "a"), name=" ").to_sink(OUT)), "name=")
    two = keyed().to_sinks([RedisList("o"), RedisList("o", encoder=str)])
    refused(lambda: build("app", two), "two sinks", "'o'")
    refused(lambda: build("app", keyed().to_sinks([OUT, RedisStream("out")])), "'out'")


@dataclass(frozen=True)
class NeedsOne:
    one: int


def with_needy(value: Any, state: NeedsOne) -> None: ...


def test_an_invalid_state_class_is_refused_with_the_stages_name() -> None:
    refused(lambda: stage(with_needy, "needy", state=NeedsOne), "NeedsOne")
    refused(lambda: stage(with_needy, "needy", state=int), "int")


def gives_dict(value: int) -> dict:  # type: ignore[type-arg]
    return {"one": value}


def takes_one(value: NeedsOne) -> int:
    return value.one


def gives_text(value: int) -> str:
    return str(value)


def takes_number(value: int) -> int:
    return value


def takes_numbers(values: list[int]) -> list[int]:
    return values


def gives_texts(value: Any) -> list[str | None]:
    return [str(value)]


def key_of_number(value: int) -> str:
    return str(value)


def test_types_between_stages_are_checked_if_both_are_annotated() -> None:
    text, number = stage(gives_text, "text"), stage(takes_number, "number")
    refused(lambda: build("app", keyed().to(text).to(number).to_sink(OUT)), "'text' returns str", "'number' takes int")
    refused(lambda: build("app", keyed().to(text).key_by(key_of_number).to(stage(same)).to_sink(OUT)), "'text'", "key_by")
    texts = stage(gives_texts, "texts", multi=True)
    refused(lambda: build("app", keyed().to(texts).to(number).to_sink(OUT)), "'texts' returns str", "'number'")
    assert build("app", keyed().to(number).to(text).to(stage(same)).to(number, name="after").to_sink(OUT))


def test_a_dict_becomes_a_dataclass_only_at_a_hop_to_another_key() -> None:
    give, take = stage(gives_dict, "give"), stage(takes_one, "take")
    refused(lambda: build("app", keyed().to(give).to(take).to_sink(OUT)), "'give' returns dict", "'take' takes NeedsOne")
    app = build("app", keyed().to(give).key_by(lambda value: "k").to(take).to_sink(OUT))
    assert payloads(run(app, raws_of(run(app, [send(7)])))) == [7]


def test_anything_that_is_not_a_pipeline_stage_or_sink_is_refused() -> None:
    standalone: Computation = declare(same, name="standalone", state=None, key=key)
    refused(lambda: begin().to(standalone), "'standalone'", "key=")
    refused(lambda: begin().to(same), "to(): expected")
    refused(lambda: begin().to(None), "to(): expected")
    refused(lambda: begin().merge(3), "merge()")  # type: ignore[arg-type]
    refused(lambda: begin().to_sink(3), "to_sink()")
    refused(lambda: begin().to_sinks("out"), "to_sinks()")
    refused(lambda: build("app", 3), "'app'", "pipeline")  # type: ignore[arg-type]
    refused(lambda: build(" ", keyed().to_sink(OUT)), "name")
    late = stage(same, "late", deduplicate=3.0)
    refused(lambda: build("app", keyed().to(late).to_sink(OUT)), "'late'", "deduplicate")
