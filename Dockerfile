# The server in a container:
#   docker build -t explllm . && docker run -p 8000:8000 -e EXPLLLM_API_KEY explllm
#   docker run -p 8000:8000 -v $PWD/runs/demo/model:/model:ro explllm --model /model
#   docker build --build-arg DEVICE=cuda -t explllm . && docker run --gpus all ... explllm --device cuda --batch_size 32
# Options after the image's name go to `explllm serve`. Without --model it serves the model of the package.
FROM python:3.12-slim

# cpu: torch without CUDA, a tenth of the size; pip prefers this index's 2.x+cpu to PyPI's 2.x. cuda: torch from PyPI,
# which brings CUDA's libraries along.
ARG DEVICE=cpu
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY explllm explllm
# The faces extra is for --detector. Its opencv-python needs libGL, which this image lacks.
RUN case "$DEVICE" in \
      cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
      cuda) ;; \
      *) echo "DEVICE is cpu or cuda, not $DEVICE" && exit 1 ;; \
    esac \
    && pip install --no-cache-dir ".[serve,faces]" \
    && pip uninstall -y opencv-python \
    && pip install --no-cache-dir --force-reinstall --no-deps opencv-python-headless

# The server writes nothing, and needs no rights.
USER 65534:65534
WORKDIR /tmp
ENV HF_HUB_OFFLINE=1 HOME=/tmp PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["explllm", "serve", "--host", "0.0.0.0", "--name", "explllm"]
