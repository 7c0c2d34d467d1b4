"""Where the rows come from, and how they are cut into shards."""

from typing import Literal, Self

from pydantic import Field, model_validator

from controlmill.config.base import Options

InputFormat = Literal[
    "txt", "txt.gz", "csv", "csv.gz", "tsv", "tsv.gz", "json", "json.gz", "jsonl", "jsonl.gz", "parquet", "parquet.gz"
]


class SourceOptions(Options):
    """Where the rows come from."""

    url_list: str | None = None
    """A file of URLs or a folder of such files: local path or any fsspec URI (s3://, gs://, hf://, https://)."""
    image_folder: str | None = None
    """A folder of images, searched recursively, instead of a list of URLs; captions from a .txt beside an image."""
    from_img2dataset: str | None = None
    """An output folder of img2dataset (files, webdataset or parquet) whose images are adopted without pulling."""
    input_format: InputFormat | None = None
    """Format of the URL list; by default told from the file name."""
    url_col: str = "url"
    """Column that holds the URL."""
    caption_col: str | None = None
    """Column that holds the caption."""
    save_additional_columns: tuple[str, ...] = ()
    """Further columns of the source to keep."""
    verify_hash: tuple[str, Literal["md5", "sha256", "sha512"]] | None = None
    """Column with the expected hash of the downloaded bytes, and its kind: ["sha256", "sha256"]."""
    number_sample_per_shard: int = Field(default=10_000, ge=1)
    """Source rows per shard; the unit of commit, resume and parallel work."""
    incremental_mode: Literal["incremental", "overwrite", "extend"] = "incremental"
    """incremental: do what is missing; extend: add the new rows of a source that grew; overwrite: start again."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("url_list", "image_folder", "from_img2dataset") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"got {' and '.join(given)}" if given else "got none"
            raise ValueError(f"give exactly one of url_list, image_folder, from_img2dataset ({found})")
        return self
