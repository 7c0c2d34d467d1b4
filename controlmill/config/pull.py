"""How images are pulled over HTTP: time, politeness, safety."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from controlmill.config.base import Options


class PullOptions(Options):
    """How images are pulled over HTTP."""

    thread_count: PositiveInt = 256
    """Downloads in flight in each parallel task."""
    timeout: PositiveFloat = 10.0
    """Seconds to wait for a connection, and for the next bytes of an answer."""
    total_timeout: PositiveFloat = 60.0
    """Seconds that one URL may take in all, redirects, retries and waiting between them included."""
    retries: int = Field(default=0, ge=0)
    """Further attempts, with exponential backoff, after 429, 5xx, timeouts, broken connections; after no other 4xx."""
    max_bytes: PositiveInt = 64 * 1024 * 1024
    """Largest answer body in bytes, enforced while it streams in."""
    max_redirects: int = Field(default=5, ge=0)
    """Redirects followed for one URL."""
    max_connections_per_host: PositiveInt = 16
    """Downloads in flight to one host, over all parallel tasks together."""
    max_requests_per_second_per_host: PositiveFloat | None = None
    """Requests started per second to one host, over all parallel tasks together; not limited by default."""
    host_failure_limit: PositiveInt = 20
    """Failures of one host in a row (timeout, broken connection, 429, 5xx) after which it is left alone for a while."""
    host_cooldown: PositiveFloat = 60.0
    """Seconds for which such a host is left alone; its rows fail as host_unavailable meanwhile."""
    outage_patience: PositiveFloat = 600.0
    """Seconds to wait for this machine's own network to come back before the run stops; no row is marked as failed."""
    user_agent_token: str | None = None
    """Name that robots.txt and X-Robots-Tag may address this run by; the User-Agent carries it beside "controlmill"."""
    user_agent_contact: str | None = None
    """URL or mail address in the User-Agent, so that a site's owner can reach you."""
    disallowed_header_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    """X-Robots-Tag directives that opt an image out, checked before its body is read; empty to ignore the header."""
    respect_robots_txt: bool = True
    """Ask each host's robots.txt (RFC 9309, cached) before pulling from it."""
    allow_private_networks: bool = False
    """Also pull from loopback, private, link-local and other non-public addresses."""
    ignore_ssl_certificate: bool = False
    """Do not verify TLS certificates."""
    compute_hash: Literal["md5", "sha256", "sha512"] | None = "sha256"
    """Hash of the downloaded bytes to store as a column of that name."""
