from tasks.pull.backoff import backoff_s

URLS = [f"http://example.org/{number}.jpg" for number in range(200)]


def test_the_same_url_and_attempt_wait_the_same_in_every_run() -> None:
    assert backoff_s("http://example.org/a.jpg", 1) == backoff_s("http://example.org/a.jpg", 1)
    assert backoff_s("http://example.org/a.jpg", 1) != backoff_s("http://example.org/a.jpg", 2)


def test_the_waits_of_many_urls_are_spread_over_a_window_that_doubles() -> None:
    for attempt, window_s in ((1, 1.0), (2, 2.0), (3, 4.0)):
        waits = [backoff_s(url, attempt) for url in URLS]
        assert 0 <= min(waits) < 0.1 * window_s
        assert 0.9 * window_s < max(waits) <= window_s
        assert 0.4 * window_s < sum(waits) / len(waits) < 0.6 * window_s


def test_no_wait_grows_without_bound() -> None:
    assert max(backoff_s(url, 10_000) for url in URLS) <= 30
