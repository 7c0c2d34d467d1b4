"""What pulling has cost so far."""

from dataclasses import dataclass


@dataclass(slots=True)
class PullStatistics:
    """Running totals of one puller.

    Attributes:
        num_requests: requests sent, those for robots.txt among them.
        num_robots_txt: requests for robots.txt.
        num_redirects: redirects followed.
        num_retries: attempts after the first.
        num_bytes: bytes of bodies received, as they are after decompression.
        num_opted_out: images that a X-Robots-Tag or robots.txt keeps out.
        num_bytes_spared: bytes of bodies that were not fetched thanks to X-Robots-Tag, as far as hosts told the size.
        queue_s: seconds that rows waited for their turn at a host, summed over rows.
        num_outages: times that this machine was found to be without network.
        outage_s: seconds for which it was.
    """

    num_requests: int = 0
    num_robots_txt: int = 0
    num_redirects: int = 0
    num_retries: int = 0
    num_bytes: int = 0
    num_opted_out: int = 0
    num_bytes_spared: int = 0
    queue_s: float = 0.0
    num_outages: int = 0
    outage_s: float = 0.0
