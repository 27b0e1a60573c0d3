"""Upload to the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import EvalkitError

LOGIN = "log in with `hf auth login`, and see that the repository is yours"


def check(repo: str) -> None:
    """Raise EvalkitError for a name that the Hub would refuse, and where nobody is logged in: before the work."""
    try:
        validate_repo_id(repo)
    except HFValidationError as e:
        raise EvalkitError(f"--push {repo} is no name of a repository, which is USER/NAME") from e
    try:
        HfApi().whoami()
    except Exception as e:  # of the Hub, its client or the connection
        raise EvalkitError(f"the Hub does not know you ({_first(e)}); {LOGIN}") from e


def push(folder: Path, repo: str) -> str:
    """Upload a folder, into a repository that is made if it is not there; where it is now. Raises EvalkitError; the
    folder stays.

    Args:
        folder: What `--to hf` wrote.
        repo: USER/NAME.
    """
    api = HfApi()
    try:
        made = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Add model")
    except Exception as e:
        raise EvalkitError(f"{folder} was written but not uploaded to {repo} ({_first(e)}); {LOGIN}") from e
    return f"uploaded: {made}"


def _first(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
