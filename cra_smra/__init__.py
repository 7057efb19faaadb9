"""Fine-grained visual classification with CRAM and SMRAM."""

from cra_smra.cram import CRAM
from cra_smra.data import load_dataset
from cra_smra.evaluate import evaluate
from cra_smra.model import CRASMRA
from cra_smra.predict import Classifier
from cra_smra.recipes import Recipe
from cra_smra.smram import SMRAM
from cra_smra.train import train

__all__ = ["CRAM", "CRASMRA", "SMRAM", "Classifier", "Recipe", "evaluate", "load_dataset", "train"]
