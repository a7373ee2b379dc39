"""Names are of one form and never given twice, whoever asks at once."""

from concurrent.futures import ThreadPoolExecutor

from core.ids import new_id


def test_names_are_given_once() -> None:
    with ThreadPoolExecutor(4) as threads:
        named = list(threads.map(lambda _: new_id(), range(2_000)))
    assert len(set(named)) == len(named)
    assert all(len(name) == 24 and set(name) <= set("0123456789abcdef") for name in named)
