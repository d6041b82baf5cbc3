"""The program that measures a stream reads one to its end, and checks the books."""

import pytest

from bench.stream import main


async def test_a_stream_is_closed_with_what_came_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await main(500, increment="$0.001", ahead="$0.004")

    said = capsys.readouterr().out
    assert "tokens read                        500" in said
    assert "charged                            10000" in said
