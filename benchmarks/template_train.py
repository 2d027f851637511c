"""What benchmarks/template.py measures ours against: a training in the style of lightning-hydra-template.

    .peers/bin/python benchmarks/template_train.py data.root=FOLDER
    .peers/bin/python benchmarks/template_train.py -m data.root=FOLDER loss=bce,dice seed=0,1,2

As its users write it: a Dataset that decodes and augments one PNG after the other, a LightningModule with torchmetrics,
two loggers, and a checkpoint of the lowest validation loss. Network, losses and augmentation are those of conf/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations as A
import hydra
import lightning as L
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex

from runcard.models.unet import UNet

CONFIG = {
    "defaults": ["_self_", {"loss": "dice"}, {"augmentation": "light"}],
    "seed": 0,
    "data": {"root": "???", "batch_size": 8, "num_workers": 0},
    "model": {"base": 8, "lr": 1e-3},
    "trainer": {"max_epochs": 15, "precision": "32-true"},
    "output_dir": "${hydra:runtime.output_dir}",
}
ConfigStore.instance().store("template", CONFIG)


class Pairs(Dataset[Any]):
    """The PNG of a folder images/ and of a folder masks/ beside it."""

    def __init__(self, folder: Path, transforms: list[Any]) -> None:
        self.images = sorted((folder / "images").glob("*.png"))
        self.masks = sorted((folder / "masks").glob("*.png"))
        self.transform = A.Compose([*transforms, A.ToFloat(max_value=255), ToTensorV2()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        image, mask = (np.asarray(Image.open(paths[i])) for paths in (self.images, self.masks))
        changed = self.transform(image=image, mask=mask // 255)
        return changed["image"], changed["mask"].long()


class Segmentation(L.LightningModule):  # type: ignore[misc]
    """A network with its loss, Adam and metrics."""

    def __init__(self, network: torch.nn.Module, loss: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.network, self.loss, self.lr = network, loss, lr
        metrics = MetricCollection({"dice": BinaryF1Score(), "iou": BinaryJaccardIndex()})
        self.train_metrics = metrics.clone(prefix="train/")
        self.val_metrics = metrics.clone(prefix="val/")

    def training_step(self, batch: Any, _: int) -> Any:
        """Compute the loss of a batch."""
        loss, probs, masks = self._step(batch)
        self.train_metrics(probs, masks)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        """Log the loss of a batch."""
        loss, probs, masks = self._step(batch)
        self.val_metrics(probs, masks)
        self.log("val/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log_dict(self.val_metrics, on_step=False, on_epoch=True, prog_bar=True)

    def _step(self, batch: Any) -> tuple[Any, Any, Any]:
        images, masks = batch
        logits = self.network(images)
        return self.loss(logits, masks), torch.sigmoid(logits[:, 0]), masks

    def configure_optimizers(self) -> Any:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), self.lr)


@hydra.main(version_base="1.3", config_path="../conf", config_name="template")
def main(cfg: DictConfig) -> None:
    """Train one config."""
    L.seed_everything(cfg.seed, workers=True)
    root, output_dir = Path(cfg.data.root), cfg.output_dir
    transforms = [instantiate(node, _convert_="all") for node in cfg.augmentation.transforms.values()]
    options = {"batch_size": cfg.data.batch_size, "num_workers": cfg.data.num_workers}
    train_loader = DataLoader(Pairs(root / "train", transforms), shuffle=True, **options)
    val_loader = DataLoader(Pairs(root / "val", []), **options)
    loss = instantiate({key: value for key, value in cfg.loss.items() if key != "two_class_logits"})
    network = UNet(1, 1, cfg.model.base, batchnorm=True)
    module = Segmentation(network, loss, cfg.model.lr)
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=output_dir,
        logger=[CSVLogger(output_dir), TensorBoardLogger(output_dir)],
        callbacks=[ModelCheckpoint(f"{output_dir}/checkpoints", monitor="val/loss")],
        **cfg.trainer,
    )
    trainer.fit(module, train_loader, val_loader)


if __name__ == "__main__":
    main()
