"""What of a URL stands in the layers that people hand on."""

import pytest

from tasks.rows import without_credentials


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://me:secret@example.org/1.jpg", "https://example.org/1.jpg"),
        ("https://me@example.org:8080/1.jpg?id=5", "https://example.org:8080/1.jpg?id=5"),
        ("https://me:p@ss@example.org/1.jpg", "https://example.org/1.jpg"),
        ("https://example.org/@me/1.jpg", "https://example.org/@me/1.jpg"),
        ("https://example.org/?mail=me@example.org", "https://example.org/?mail=me@example.org"),
        ("https://example.org?next=http://a:b@c/", "https://example.org?next=http://a:b@c/"),
        ("", ""),
    ],
)
def test_a_layer_holds_no_password(url: str, stored: str) -> None:
    assert without_credentials(url) == stored
