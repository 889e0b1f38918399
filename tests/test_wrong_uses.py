"""A table of wrong uses of every command: each gives one line that names the option and says what to do."""

import shutil

import pandas as pd
import pytest
import yaml

from explllm.core.manifest import Manifest

COMMANDS = """
walk | unknown command walk. See `explllm --help`.
fitt | unknown command fitt. Did you mean fit? See `explllm --help`.
expalin | Did you mean explain?
--walk | unknown command --walk
cot | `explllm cot` needs a subcommand. Use one of build, estimate, status, check, show.
cot walk | unknown command walk
cot stauts | unknown command stauts. Did you mean status? See `explllm cot --help`.
convert | needs a subcommand
convert relesed A B | Did you mean released?
data | needs a subcommand
data rafbd . -o x.csv | Did you mean rafdb?

explain | no IMAGE given. Pass IMAGE. See `explllm explain --help`.
explain FACE --model m --detector None | None
explain http://127.0.0.1/face.jpg --model m | an image is a URL
explain --model m | no IMAGE given
explain FACE --model | the option --model has no value
explain none.jpg --model m | the image does not exist [none.jpg]. Check the path.
explain FACE --model m --modle x | Did you mean --model?
explain FACE --model m --max-new-tokens 0 | --max_new_tokens is 0. Use 1 to 32768.
explain FACE --model m --max-new-tokens -4 | --max_new_tokens is -4
explain FACE --model m --max_new_tokens many | --max_new_tokens is 'many', not a whole number
explain FACE --model m --max_new_tokens 1.5 | --max_new_tokens
explain FACE --model m --which best | --which is 'best', not one of largest, central, all
explain FACE --model m --margin wide | --margin is 'wide', not a number
explain FACE --model m --margin -1 | --margin is -1
explain FACE --model m --margin nan | --margin is 'nan'
explain FACE --model m --json=yes | --json takes no value
explain FACE --model m --picture out.txt | --picture has the extension '.txt'
explain FACE FACE --model m --picture out.png | --picture is one file for 2 images
explain FACE --model m --landmarker a --onnx b | both --landmarker and --onnx are given. Pass one of them.
explain FACE --model m --size 64 | none of --landmarker, --onnx is given
explain FACE --model m --preset small | none of --landmarker, --onnx is given
explain FACE --model m --detector none.onnx | none.onnx
explain FACE --model m --device walk | --device walk cannot be used. Use one that this machine has
explain FACE --model none | the model folder does not exist [none]. Name a folder that `fit` wrote
explain FACE --model m --onnx none.onnx | the file does not exist [none.onnx]
explain FACE --model m --device meta | --device
explain FACE --model m --which largest | --which has no effect without --detector
explain FACE --model m --margin 0.2 | --margin has no effect without --detector
explain FACE --model m --overwrite | --overwrite has no effect without --out
explain FACE --model m --margin 1e9 --detector d | --margin is 1000000000.0
explain FACE --model m --max_new_tokens 99999999999999999999 | --max_new_tokens is 99999999999999999999
explain FACE --model m --picture . | --picture would replace an input image
explain FACE --model= | --model is empty
explain FACE --model m --config TWICE | the key max_new_tokens is given twice
explain FACE --model m --config BINARY | not valid YAML
explain FACE --model m --config NOTHING | the file contains no settings
explain FOLDER --model m | the folder has no images
explain *.gif --model m | no file matches the pattern
explain EMPTY --model m | unreadable image
recognize http://127.0.0.1:9/face.jpg --model m --allow_urls | the image cannot be fetched
models got | unknown command got
models get | no NAME given
models get scrf | NAME is 'scrf', not one of released, scrfd, landmarker
models get released --checkpont x | Did you mean --checkpoint?
models --jsn | Did you mean --json?
recognize FACE --model m --max_new_tokens 4 | unknown option --max_new_tokens
recognize FACE --model m --landmarker x | unknown option --landmarker
recognize FACE --model m -o o.txt | --out has the extension '.txt'
recognize FACE --model m -o M | the manifest exists
recognize FACE --model m --batch_size 0 | --batch_size is 0
recognise FACE | Did you mean recognize?
explain FACE --model m --config none.yaml | none.yaml]. Check --config
explain FACE --model m --config BADKEY | unknown key
explain FACE --model m --config BADTYPE | --max_new_tokens is 'many'

faces | no MANIFEST and no --out and no --detector given
faces M | no --out and no --detector given
faces M -o o.csv | no --detector given
faces none.csv -o o.csv --detector d | none.csv
faces M -o o.txt --detector d | --out has the extension '.txt'
faces M -o M --detector d | the manifest exists
faces M -o o.csv --detector none | none
faces M -o o.csv --detector d --which best | --which
faces M -o o.csv --detector d --workers 0 | --workers is 0
faces M -o o.csv --detector d --workers two | --workers is 'two'
faces M -o o.csv --detector d --max_bad -1 | --max_bad is -1
faces M -o o.csv --detector d --threshold 2 | --threshold is 2
faces M -o o.csv --detector d --threshold -0.1 | --threshold is -0.1
faces M -o o.csv --detector d --input_size 8 | --input_size is 8
faces M -o o.csv --detector d --margin -0.5 | --margin is -0.5
faces M -o o.csv --detector d --provider tpu | --provider is 'tpu'
faces M -o o.csv --detector d --root none | Check --root
faces M -o o.csv --detector d --thresold 1 | Did you mean --threshold?
faces M -o o.csv --detector d --workers 1000000 | --workers is 1000000
faces M extra -o o.csv --detector d | unexpected argument extra

aus | no MANIFEST and no --out given
aus M -o o.csv | none of --landmarker, --onnx is given
aus M -o o.csv --onnx a --landmarker b | both --landmarker and --onnx are given
aus M -o o.csv --onnx none | none
aus M -o o.xlsx --onnx a | --out has the extension '.xlsx'
aus M -o M --onnx a | the manifest exists
aus M -o o.csv --onnx a --workers 0 | --workers is 0
aus M -o o.csv --onnx a --margin x | --margin is 'x'
aus M -o o.csv --onnx a --provider gpu | --provider is 'gpu'
aus M -o o.csv --onnx a --root none | Check --root
aus M -o o.csv --onix a | Did you mean --onnx?
aus M -o o.csv --onnx a --size big | --size is 'big'

reliability M --landmarker t --seed -1 | --seed is -1
reliability M --landmarker t --seed 99999999999999 | --seed is 99999999999999
reliability M --landmarker t --overwrite | --overwrite has no effect without --out
reliability M --landmarker t -o o.txt | --out has the extension '.txt'
reliability TWOCOLUMNS --landmarker t -o TWOCOLUMNS --overwrite | --out would replace the manifest [two.csv]
reliability M --landmarker t -o TWOCOLUMNS | the table exists [two.csv]. Choose another --out, or pass --overwrite.
bench fea M m -o o --device walk | --device walk cannot be used

cot build | no MANIFEST and no --out given
cot build M | no --out given
cot build M -o o.csv | no model given
cot build M -o o.txt --offline | --out has the extension '.txt'
cot build M -o M --offline | --out is
cot build none.csv -o o.csv --offline | none.csv
cot build M -o o.csv --offline --model gpt-4o | both --offline and --model
cot build M -o o.csv --offline --price_in 1 --price_out 1 | --price_in has no effect
cot build M -o o.csv --offline --max_rounds -1 | max_rounds is -1
cot build M -o o.csv --offline --label_after -1 | label_after is -1
cot build M -o o.csv --offline --strong 7 | strong is 7
cot build M -o o.csv --offline --temperature -1 | temperature is -1
cot build M -o o.csv --offline --parse_attempts 0 | parse_attempts is 0
cot build M -o o.csv --offline --max_words 0 | max_words is 0
cot build M -o o.csv --model m --concurrency 0 | concurrency
cot build M -o o.csv --model m --temperature 9 | temperature is 9
cot build M -o o.csv --model m --concurrency 1000000000 | concurrency is 1000000000
cot build TWOCOLUMNS -o o.csv --offline | two columns are named 'image'
cot build M -o o.csv --model m --max_retries -1 | max_retries
cot build M -o o.csv --model m --timeout 0 | timeout
cot build M -o o.csv --model m --requests_per_minute 0 | requests_per_minute
cot build M -o o.csv --model m --tokens_per_minute -5 | tokens_per_minute
cot build M -o o.csv --model m --max_cost -1 | max_cost
cot build M -o o.csv --model m --price_in 1 | price_out
cot build M -o o.csv --model m --structured maybe | --structured is 'maybe'
cot build M -o o.csv --model m --base_url walk | base_url
cot build M -o o.csv --model m --api_key_env sk-secret | api_key_env
cot build M -o o.csv --model m --max_cots 3 | Did you mean --max_cost?
cot build M -o o.csv --model m --max_cost much | --max_cost is 'much'
cot build M -o o.csv --model m --overwrite=1 | --overwrite takes no value
cot build M -o o.csv --model m --max_cost 1 --base_url http://127.0.0.1:9/v1 | price_in
cot build M -o o.csv --model m --base_url http://127.0.0.1:9/v1 --max_retries 0 | cannot be reached
cot estimate | no MANIFEST given
cot estimate none.csv | none.csv
cot estimate M --strong -1 | strong is -1
cot estimate M --price_out 3 | price_in
cot status | no OUT given
cot status none.csv | the build does not exist
cot check | no MANIFEST given
cot check none.csv | none.csv
cot check M --jsn | Did you mean --json?
cot show | no MANIFEST and no ROW given
cot show M | no ROW given
cot show M first | ROW is 'first', not a whole number
cot show M 0 | ROW is 0
cot show M 99 | no row 99

baseline | no MANIFEST given
baseline M | no model given
baseline M --model m | --send_images
baseline M --model m --send_images -o o.txt | --out has the extension '.txt'
baseline M --model m --size 3 | size is 3
baseline M --model m --margin -1 | margin is -1
baseline M --model m --max_tokens 0 | max_tokens is 0
baseline M --model m --temperature -0.5 | temperature is -0.5
baseline M --model m --sample 0 | --sample is 0
baseline M --model m --seed -1 | --seed is -1
baseline M --model m --split dev | 'dev'
baseline M --model m --label_set emo | label set 'emo'
baseline M --model m --root none | Check --root
baseline M --model m --send_image | Did you mean --send_images?
baseline none.csv --model m | none.csv

score | no GENERATED given
score none.csv | none.csv
score M --reference none.csv | none.csv
score M --reference M | no chains of thought to compare with --reference
score M --judge | the option --judge has no value
score M --refrence x | Did you mean --reference?
score M --max_cost -1 | max_cost
score M --max_cost 3 | --max_cost has no effect
score M --timeout soon | --timeout is 'soon'
score M --json=1 | --json takes no value

compare | no RUN given
compare one | Pass two or more
compare none other | the run does not exist [none]. Check the path.
bench fea none.parquet --model m | unknown option --model. See
compare a b --out | the option --out has no value
compare a b --ot x | Did you mean --out?

describe | no --config given
describe --config none.yaml | there is no configuration none.yaml
describe --config rafd.yaml | Did you mean rafdb.yaml?
describe --config demo.yaml --gpus 0 | --gpus is 0
describe --config demo.yaml --gpus 99999999999999999999 | --gpus is 99999999999999999999
describe --config TWICE | the key max_new_tokens is given twice
describe --config demo.yaml --images -3 | --images is -3
describe --config demo.yaml --gpus eight | --gpus is 'eight'

convert released | no FOLDER and no OUT given
convert released none out | none
convert released none out --vision_heads 0 | --vision_heads is 0
convert released none out --merg | Did you mean --merge?
convert merge none | no OUT given
convert merge none out | none

data rafdb | no ROOT and no --out given
data rafdb none -o o.csv | Check ROOT
data rafdb . -o o.txt | --out has the extension '.txt'
data rafdb . -o M | the manifest exists
data rafdb . -o o.csv --images raw | --images is 'raw', not one of aligned, original
data rafdb . -o o.csv --max_bad -1 | --max_bad is -1
data rafdb . -o o.csv --check_images --lists_only | --check_images conflicts with --lists_only
data affectnet . -o o.csv --classes 9 | --classes is '9', not one of
data expw . -o o.csv --draw few | --draw is 'few'
data expw . -o o.csv --fold 1 | unknown option --fold
data disfa . -o o.csv --threshold 9 | --threshold is 9
data feafa . -o o.csv --fold one | --fold is 'one'
"""

STAGES = """
fit | no model and no data configured. Pass a configuration, such as `explllm fit --config
fit --config | the option --config has no value
fit --config rafbd.yaml | Did you mean rafdb.yaml?
fit --config --data.seed 1 | the option --config has no value. Pass a configuration
fit --config= --data.seed 1 | --config is empty. Pass a value, or omit it.
fit --config none.yaml | there is no configuration none.yaml; searched none.yaml, configs/none.yaml, /
fit --config SMALL --walk 3 | unknown option --walk. See `explllm fit --help`.
fit --config SMALL walk | unexpected argument walk. See
fit --config SMALL --trainer.walk 3 | unknown option --trainer.walk.
fit --config SMALL --data.walk 3 | unknown key data.walk. See `explllm fit --data.help DrawnFaces`.
test --config SMALL --model.network.walk 3 | key model.network.walk. See `explllm test --model.help ExpLLMTask`.
fit --config SMALL --data.batch_size | the option --data.batch_size has no value.
fit --config SMALL --data.batch_size many | data.batch_size is 'many', not a whole number. See
fit --config SMALL --data.batch_size 30 | `data.batch_size` 30 is not a multiple of `data.micro_batch_size` 16. Use
fit --config SMALL --data.batch_size 320000 | `data.batch_size` 320000 is larger than an epoch of 224 samples
fit --config SMALL --data.fer_share 2 | `data.fer_share` is 2.0. Use a share from 0 to 1
fit --config SMALL --data.augment.flip 3 | `augment.flip` is 3.0. Use 0 (off) to 1.
fit --config SMALL --data.augment.flop 3 | unknown key data.augment.flop.
fit --config SMALL --model.optimization.learning_rate fast | model.optimization.learning_rate is 'fast', not a number
fit --config SMALL --model.optimization.warmup_steps 3 --model.optimization.warmup_ratio 0.1 | Set only one of them.
fit --config SMALL --model.network.preset huge | model.network.preset is 'huge', not one of tiny, vicuna-7b.
fit --config SMALL --model Walk | there is no class Walk. Use ActionUnitTask, ExpLLMTask, or another by its import path.
fit --config SMALL --model.init_from none/model | the model of --model.init_from does not exist [none/model]
fit --config SMALL --trainer.callbacks Walk | trainer.callbacks: there is no class Walk.
fit --config SMALL --trainer.max_epochs x | trainer.max_epochs is 'x', not a whole number or null.
fit --config SMALL --trainer.accumulate_grad_batches 4 | it follows from data.batch_size
fit --config SMALL --checkpoint_every_n_steps 0 | checkpoint_every_n_steps is 0, not a whole number >0.
fit --config SMALL --explained_faces -1 | explained_faces is -1, not a whole number >=0.
fit --config SMALL --ckpt_path last | the run has no checkpoint yet [runs/small/checkpoints/last.ckpt]. Start without
fit --config faces.yaml --data.root none | the folder does not exist [none]. Check the path.
test --config SMALL | the run has no checkpoint yet [runs/small/checkpoints/last.ckpt]. Run `explllm fit`
test --config SMALL --model.init_from none/model | the folder contains no model: it has no config.json [none/model].
fit --config SMALL --run_dri x | Did you mean --run_dir?
fit --config SMALL --trainer.max_epoch 3 | Did you mean --trainer.max_epochs?
fit --config SMALL --data.bach_size 3 | Did you mean batch_size?
fit --config SMALL --model.network.chat_fromat x | Did you mean chat_format?
fit --config SMALL --data FolderFace | Did you mean FolderFaces?
fit --config SMALL --model ExpLLMTsk | Did you mean ExpLLMTask?
fit --config SMALL --trainer.max_epochs 0 | trainer.max_epochs is 0
fit --config SMALL --trainer.max_steps 0 | trainer.max_steps is 0
fit --config SMALL --trainer.max_epochs -5 | trainer.max_epochs is -5: no training would run. Use at least 1.
fit --config SMALL --trainer.max_epochs -1 --trainer.max_time 00:12:00:00 | the number of steps. Set one of them.
fit --config SMALL --trainer.gradient_clip_val -1 | trainer.gradient_clip_val is -1
fit --config SMALL --trainer.precision 16-true | trainer.precision is 16-true
fit --config SMALL --trainer.precision bf16-true | trainer.precision is bf16-true
fit --config SMALL --predictions x.txt | --predictions is x.txt
fit --config SMALL --explained_faces nan | explained_faces
fit --config SMALL --model.encoder_share 2 | `encoder_share` must be in [0, 1], got 2
fit --config SMALL --model.mixup 0.4 | `mixup` has no effect without `encoder_share`
fit --config SMALL --model.mixup -1 --model.encoder_share 0.5 | `mixup` must be at least 0, got -1
fit --config SMALL --model.measured_units_share 0.5 | `measured_units_share` requires action unit tokens
test --config SMALL --ckpt_path none.ckpt | the checkpoint does not exist [none.ckpt]. Check --ckpt_path.
fit --config SMALL --trainer.accelerator tpu | the trainer's settings are invalid
fit --config SMALL --trainer.accelerator walk | the trainer's settings are invalid: You selected an invalid
fit --config SMALL --trainer.limit_train_batches 0 | trainer.limit_train_batches is 0
fit --config SMALL --trainer.check_val_every_n_epoch 0 | trainer.check_val_every_n_epoch is 0
fit --config SMALL --trainer.logger TensrBoardLogger | Did you mean TensorBoardLogger?
fit --config SMALL --trainer.callbacks EarlyStoping | Did you mean EarlyStopping?
fit --config SMALL --trainer.devices 9999 | trainer.devices is 9999 on the CPU
fit --config SMALL --seed_everything -1 | --seed_everything is -1
fit --config SMALL --seed_everything 99999999999999999 | --seed_everything is 99999999999999999
fit --config SMALL --run_dir= | --run_dir is empty
fit --config SMALL --model.max_new_tokens 0 | max_new_tokens is 0
fit --config SMALL --model.network.vision.hiden_sizes [8] | Did you mean hidden_sizes?
fit --config SMALL --model.network.language.num_hidden_layers 0 | num_hidden_layers is 0
fit --config SMALL --model.network.language.num_attention_heads 3 | language: the fields do not fit a llama
fit --config TWICE | the key max_new_tokens is given twice
fit --config SECTION | Did you mean trainer?
fit --config SMALL --trainer.strategy ddp_spawn | trainer.strategy is ddp_spawn
fit --config SMALL --trainer.logger WandbLogger | needs the package wandb
fit --config SMALL --trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/los | monitors 'val/los'
fit --config SMALL --model.optimization.learning_rate -1 | learning_rate is -1
fit --config SMALL --model.optimization.weight_decay -1 | weight_decay is -1
fit --config SMALL --model.network.vision_lora.r 0 | r is 0
fit --config SMALL --model.network.language_lora.dropout 2 | dropout is 2
fit --config SMALL --model.network.vision_lora.targets ( | are not a regular expression
fit --config SMALL --model.network.projector_layers 0 | projector_layers is 0
fit --config SMALL --model.network.projector_train lora | projector_train
fit --config SMALL --model.optimization.beta2 1 | beta1 and beta2 are 0.9 and 1
fit --config SMALL --model.optimization.epsilon -1 | epsilon is -1
fit --config SMALL --model.optimization.part_learning_rates.vision -1 | `part_learning_rates` has -1
fit --config SMALL --data.num_workers -1 | num_workers
fit --config SMALL --data.batch_size -4 | batch_size
fit --config SMALL --model.init_from runs/align_cc3m/model | explllm fit --config align_cc3m.yaml
fit --config SMALL --model.network.vision ./none | --model.network.vision
fit --config SMALL --model.network.language /none/llm | --model.network.language
fit --config SMALL --seed_everything x | seed_everything is 'x', not true or false or a whole number.
fit --config SMALL --ckpt_path none.ckpt | Check --ckpt_path
test --run_dir none | Check --run_dir
test --config SMALL --ckpt_path best | best.ckpt
predict --run_dir none | Check --run_dir
validate --config none.yaml | there is no configuration none.yaml
fit --data.help Walk | --data.help: there is no class Walk
fit --model.help ExpLMTask | Did you mean ExpLLMTask?
"""


def rows(table):
    return [tuple(part.strip() for part in line.split("|")) for line in table.splitlines() if line]


def test_the_table_is_long():
    assert len(rows(COMMANDS)) + len(rows(STAGES)) >= 150


@pytest.fixture
def words(tmp_path, drawn_faces, small_config, monkeypatch):
    """Real files for the words in capitals."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    frame = pd.DataFrame(
        {
            "image": ["a.jpg", "b.jpg"],
            "expression": ["Fear", "Anger"],
            "split": ["test", "test"],
            "action_units": [[0.5] * 24] * 2,
        }
    )
    Manifest(frame, tmp_path).write(tmp_path / "m.parquet")
    shutil.copy(next(drawn_faces.glob("test/*.png")), tmp_path / "face.png")
    for name, settings in (("key", {"max_new_tokns": 3}), ("type", {"max_new_tokens": "many"})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "twice.yaml").write_text("max_new_tokens: 3\nmax_new_tokens: 4\n")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "section.yaml").write_text("trainr: {}\n")
    (tmp_path / "two.csv").write_text("image,image\na.jpg,b.jpg\n")
    (tmp_path / "folder").mkdir()
    for name in ("nothing.yaml", "empty.png"):
        (tmp_path / name).touch()
    real = {"M": "m.parquet", "FACE": "face.png", "BADKEY": "key.yaml", "BADTYPE": "type.yaml", "SMALL": small_config}
    real |= {
        "TWICE": "twice.yaml",
        "BINARY": "binary.yaml",
        "NOTHING": "nothing.yaml",
        "SECTION": "section.yaml",
        "TWOCOLUMNS": "two.csv",
    }
    real |= {"FOLDER": "folder", "EMPTY": "empty.png"}
    return lambda line: [real.get(word, word) for word in line.split()]


@pytest.mark.parametrize(("line", "message"), [*rows(COMMANDS), *rows(STAGES)])
def test_a_wrong_use(explllm, words, tmp_path, line, message):
    before = {path for path in tmp_path.rglob("*")}
    error = explllm(*words(line)).error
    assert message in error.replace(" m.parquet", " M")
    # found [where]. remedy
    assert ". " in error and error.endswith((".", "?", ")", "`")), error
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before - {tmp_path / "m.parquet"}
    assert not {path for path in written if path.suffix in (".csv", ".txt", ".png") or path.name == "config.json"}
