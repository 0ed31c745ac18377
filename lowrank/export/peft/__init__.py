"""Folders of PEFT, the library of adapters: written from adapted models, and read into models.

Neither needs the library itself. What it does with a folder is as in its release 0.21.
"""

from lowrank.export.peft.reader import load_peft as load_peft
from lowrank.export.peft.report import Exported as Exported
from lowrank.export.peft.writer import export_peft as export_peft
