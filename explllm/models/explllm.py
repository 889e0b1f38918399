"""ExpLLM and FEALLM: recognize and explain faces, and load and save the models."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from os import PathLike
from os.path import expanduser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

import torch

from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.faces.images import as_images
from explllm.faces.pixels import ImageSource
from explllm.models import generation, storage
from explllm.models.configuration import ExpLLMConfig
from explllm.models.feallm import FEALLMProjector, FEALLMSettings
from explllm.models.generation import Recognition, Recognitions
from explllm.models.known import shipped_model
from explllm.models.network import ExpLLMNetwork
from explllm.models.network import PartName as PartName
from explllm.models.vision import vision_shape


class ExpLLM(ExpLLMNetwork):
    """Recognizes a facial expression and explains it.

    `from_pretrained` opens a trained model; `explllm.models.build.build` creates a new one.

    Examples:
        Save and load a tiny model with random weights, and apply it to a drawn face:

        >>> import tempfile
        >>> from explllm import ExpLLM
        >>> from explllm.drawn_faces import draw_faces
        >>> from explllm.models.build import NetworkSettings, build
        >>> folder = tempfile.TemporaryDirectory()
        >>> build(NetworkSettings(preset="tiny", labels="rafdb")).save_pretrained(f"{folder.name}/model")
        >>> model = ExpLLM.from_pretrained(f"{folder.name}/model")
        >>> faces = draw_faces(f"{folder.name}/faces", train=0, val=0, test=1, size=64)
        >>> [recognition] = model.recognize(faces.image_path(0))
        >>> len(recognition.probabilities)
        7
        >>> type(model.explain(faces.image_path(0), max_new_tokens=2)).__name__
        'ChainOfThought'
        >>> folder.cleanup()
    """

    entry_points = ("recognize_pixels", "explain_pixels", "recognize_and_explain_pixels")

    @staticmethod
    def class_for(config: ExpLLMConfig) -> "type[ExpLLM]":
        """Return the model class for a configuration's architecture."""
        return FEALLM if config.architecture == "feallm" else ExpLLM

    def recognize(self, images: ImageSource | Iterable[ImageSource], batch_size: int = 16) -> Recognitions:
        """Recognize the expressions of faces.

        The probability of a class is the likelihood of its whole label, normalized over the classes and calibrated with
        the configuration's `temperature`; nothing is sampled.

        Args:
            images: One image or any iterable of images, such as a generator. See `explllm.faces.images.ImageSource` for
                the types; sizes may differ.
            batch_size: Images per batch. Only one batch of images is in memory at a time.

        Returns:
            One recognition per image; ``to_frame`` returns a table.

        Raises:
            InputError: If an image does not exist or cannot be read, or the model has no labels.
        """
        return Recognitions(
            recognition
            for chunk in _chunks(as_images(images)[0], batch_size)
            for recognition in self.recognize_pixels(torch.stack([self.image(image) for image in chunk]))
        )

    def recognize_pixels(self, pixel_values: torch.Tensor) -> list[Recognition]:
        """Recognize the expressions of preprocessed faces.

        Args:
            pixel_values: (B, 3, H, W).

        Returns:
            One recognition per image.

        Raises:
            ConfigError: If the model has no labels.
        """
        self.check_labels()
        probabilities = generation.label_probabilities(self, pixel_values)
        return [Recognition.of(self.labels, row) for row in probabilities.tolist()]

    @overload
    def explain(self, images: ImageSource, max_new_tokens: int = ..., batch_size: int = ...) -> ChainOfThought: ...

    @overload
    def explain(
        self, images: Iterable[ImageSource], max_new_tokens: int = ..., batch_size: int = ...
    ) -> list[ChainOfThought]: ...

    def explain(
        self, images: ImageSource | Iterable[ImageSource], max_new_tokens: int = 320, batch_size: int = 8
    ) -> ChainOfThought | list[ChainOfThought]:
        """Explain the expressions of faces: recognize them, then generate the chains of thought that follow the labels.

        Args:
            images: One image or several, as for `recognize`.
            max_new_tokens: Maximum length of a text, in tokens; the language model's context length is another limit.
            batch_size: Images per batch.

        Returns:
            A chain of thought for one image, or a list for several.

        Raises:
            InputError: If an image does not exist or cannot be read, or the model has no labels.
        """
        several, single = as_images(images)
        texts = [text for _, text in self.recognize_and_explain(several, max_new_tokens, batch_size)]
        return texts[0] if single else texts

    def recognize_and_explain(
        self, images: ImageSource | Iterable[ImageSource], max_new_tokens: int = 320, batch_size: int = 8
    ) -> list[tuple[Recognition, ChainOfThought]]:
        """Recognize and explain the expressions of faces; both answers share one prefill of the image and prompt.

        Args:
            images: One image or several, as for `recognize`.
            max_new_tokens: Maximum length of a text, in tokens; the language model's context length is another limit.
            batch_size: Images per batch.

        Returns:
            The recognition and the chain of thought of each image.

        Raises:
            InputError: If an image does not exist or cannot be read, or the model has no labels.
        """
        self.check_labels()
        generation.check_count("batch_size", batch_size)
        several, _ = as_images(images)
        if isinstance(several, Sized):  # do not reserve more cache than needed: 0.4 GB per face with a 7B model
            batch_size = min(batch_size, max(1, len(several)))
        faces = (self.image(image) for image in several)
        answers = generation.recognize_and_explain(self, faces, batch_size, max_new_tokens)
        return [(recognition, ChainOfThought.parse(text)) for recognition, text in answers]

    def recognize_and_explain_pixels(
        self, pixel_values: torch.Tensor, max_new_tokens: int = 320
    ) -> list[tuple[Recognition, ChainOfThought]]:
        """Recognize and explain preprocessed faces, as `recognize_and_explain` does.

        Args:
            pixel_values: (B, 3, H, W).
            max_new_tokens: Maximum length of a text, in tokens; the language model's context length is another limit.

        Returns:
            The recognition and the chain of thought of each image.
        """
        self.check_labels()
        answers = generation.recognize_and_explain(self, pixel_values, len(pixel_values), max_new_tokens)
        return [(recognition, ChainOfThought.parse(text)) for recognition, text in answers]

    def explain_pixels(
        self, pixel_values: torch.Tensor, labels: Sequence[Expression], max_new_tokens: int = 320
    ) -> list[ChainOfThought]:
        """Generate the chains of thought of preprocessed faces, given their labels.

        Args:
            pixel_values: (B, 3, H, W).
            labels: The answer of the first round for each image.
            max_new_tokens: Maximum length of a text, in tokens; the language model's context length is another limit.

        Returns:
            One chain of thought per image.
        """
        return [ChainOfThought.parse(text) for text in generation.explain(self, pixel_values, labels, max_new_tokens)]

    def stream(self, image: ImageSource, max_new_tokens: int = 320) -> Iterator[str]:
        """Generate the chain of thought of one face piece by piece.

        Args:
            image: One image, as for `recognize`.
            max_new_tokens: Maximum length of a text, in tokens; the language model's context length is another limit.

        Yields:
            Pieces of text, which together form the text of the chain of thought that `explain` would return.
        """
        pixels = self.image(image).unsqueeze(0)
        label = self.recognize_pixels(pixels)[0].expression
        yield from generation.stream(self, pixels, label, max_new_tokens)

    def check_labels(self) -> None:
        """Raise a ConfigError if the model has no labels, as after training on captions."""
        if not self.labels:
            raise ConfigError("the model has no labels", remedy="Set `labels` in its config.json.")

    def save_pretrained(  # pyrefly: ignore[bad-override]
        self,
        save_directory: str | PathLike[str],
        *,
        include_base: bool = False,
        merge: bool = False,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Save the configuration, the trained weights and the tokenizer to a folder. See `explllm.models.storage.save`.

        Args:
            save_directory: The folder. An existing model folder is replaced.
            include_base: Also save the frozen base weights.
            merge: Save all weights, with LoRA merged.
            push_to_hub: Upload the folder to the Hugging Face hub. See `explllm.models.storage.upload`.
            repo_id: Name of the repository on the hub; by default, the folder's name.
            private: Whether a new repository is private.
            token: Access token for the hub.
            state_dict: Weights to save instead of the model's own, such as weights from a checkpoint.
        """
        storage.save(self, save_directory, include_base=include_base, merge=merge, weights=state_dict)
        if push_to_hub:
            storage.upload(save_directory, repo_id or Path(save_directory).name, private, token)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        include_base: bool = False,
        merge: bool = False,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to the Hugging Face hub. For the arguments, see `save_pretrained`.

        Returns:
            The URL of the commit.
        """
        with TemporaryDirectory() as temporary:
            storage.save(self, Path(temporary, "model"), include_base=include_base, merge=merge)
            return storage.upload(Path(temporary, "model"), repo_id, private, token)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str] | None = None,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        load_in_4bit: bool | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> "ExpLLM":
        """Load a model from its folder. See `explllm.models.storage.load` for the errors.

        Args:
            pretrained_model_name_or_path: A folder (``~`` is the home folder), or the name of a repository on the
                Hugging Face hub; by default the model that comes with the package.
            revision: The revision on the hub.
            dtype: Data type of the frozen base weights, or ``auto`` for the data type of their files; by default, as
                saved.
            torch_dtype: The former name of `dtype`.
            device: Device of the weights; by default the CPU.
            device_map: How accelerate places the language model, such as ``auto``.
            attn_implementation: Attention implementation of transformers: ``eager``, ``sdpa`` or ``flash_attention_2``.
                FlashAttention accepts no masks: each label then takes a forward pass, and so does each token of a text.
            load_in_4bit: Quantize the language model's base weights to 4-bit (requires bitsandbytes); by default as
                saved.
            token: Access token for the hub.
            cache_dir: Folder for downloads.
            local_files_only: Use only files that were downloaded before.

        Returns:
            The model, in evaluation mode.
        """
        return storage.load(
            cls,
            shipped_model() if pretrained_model_name_or_path is None else expanduser(pretrained_model_name_or_path),
            revision=revision,
            dtype=torch_dtype if dtype is None else dtype,
            device=device,
            device_map=device_map,
            attn_implementation=attn_implementation,
            load_in_4bit=load_in_4bit,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )


class FEALLM(ExpLLM):
    """An ExpLLM whose image tokens come from all blocks of the encoder and from crops of the face.

    Only the path from an image to the language model differs; see `explllm.models.feallm`. Conversations, training,
    recognition and explanation are the same as in ExpLLM. To build one, use `NetworkSettings(architecture="feallm")`.
    """

    def new_projector(self) -> FEALLMProjector:
        """Create the local clue aggregator and the multi-perspective projector, with random weights."""
        config = self.config
        shape = vision_shape(config.vision_config, self.image.size, *self._features, with_earlier=True)
        settings = FEALLMSettings(**(config.feallm or {}))
        return FEALLMProjector(config.vision_width, shape.earlier_widths, config.text_config.hidden_size, settings)


def _chunks(images: Iterable[ImageSource], size: int) -> Iterator[list[ImageSource]]:
    generation.check_count("batch_size", size)
    remaining = iter(images)
    while chunk := list(islice(remaining, size)):
        yield chunk
