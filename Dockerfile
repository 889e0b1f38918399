# The server in a container. The model's folder is mounted at /model:
#   docker build -t explllm . && docker run -p 8000:8000 -e EXPLLLM_API_KEY -v $PWD/runs/demo/model:/model:ro explllm
#   docker build --build-arg DEVICE=cuda -t explllm . && docker run --gpus all ... explllm --device cuda --batch_size 32
# Options after the image's name go to `explllm serve`.
FROM python:3.12-slim

# cpu: torch without CUDA, a tenth of the size. cuda: torch from PyPI, which brings CUDA's libraries along.
ARG DEVICE=cpu
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY explllm explllm
RUN case "$DEVICE" in \
      cpu) pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) ;; \
      *) echo "DEVICE is cpu or cuda, not $DEVICE" && exit 1 ;; \
    esac \
    && pip install --no-cache-dir ".[serve]" "onnxruntime>=1.20"

# The server writes nothing, and needs no rights.
USER 65534:65534
ENV HF_HUB_OFFLINE=1 HOME=/tmp PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["explllm", "serve", "--model", "/model", "--host", "0.0.0.0", "--name", "explllm"]
