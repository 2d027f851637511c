"""Train one config, or with -m a sweep of them: python train.py model=unet loss=dice model.base=32."""

from runcard.experiment.command import main

if __name__ == "__main__":
    main()
