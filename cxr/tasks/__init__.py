"""The data sets this project knows. A further one is a further file and a line here."""

from cxr.tasks.chestxdet import ChestXDet
from cxr.tasks.covid import Covid
from cxr.tasks.covid_boxes import CovidBoxes
from cxr.tasks.lungs import Lungs
from cxr.tasks.pneumothorax import Pneumothorax
from cxr.tasks.rsna import Rsna

TASKS = {task.name: task for task in (Rsna(), ChestXDet(), Pneumothorax(), Lungs(), Covid(), CovidBoxes())}
