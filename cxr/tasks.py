"""The data sets this project knows. A further one is a further file and a line here."""

from cxr.datasets.chestxdet.dataset import ChestXDet
from cxr.datasets.covid.boxes import CovidBoxes
from cxr.datasets.covid.dataset import Covid
from cxr.datasets.lungs.dataset import Lungs
from cxr.datasets.pneumothorax.dataset import Pneumothorax
from cxr.datasets.rsna.dataset import Rsna

TASKS = {
    task.name: task
    for task in (Rsna(), ChestXDet(), Pneumothorax(), Lungs(), Covid(), CovidBoxes())
}
