"""A writer of OCI archives that shares nothing with the tools that read them."""

import gzip
import hashlib
import io
import json
import tarfile


class Archive:
    """Layers are added one by one; `finish` names the image."""

    def __init__(self, path):
        self.tar = tarfile.open(path, "w")
        self.layers, self.diff_ids, self.written = [], [], set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tar.close()

    def add(self, name, content):
        if name not in self.written:
            self.written.add(name)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            self.tar.addfile(info, io.BytesIO(content))

    def blob(self, content, kind):
        digest = hashlib.sha256(content).hexdigest()
        self.add("blobs/sha256/" + digest, content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": "sha256:" + digest,
                "size": len(content)}

    def layer(self, content):
        self.diff_ids.append("sha256:" + hashlib.sha256(content).hexdigest())
        self.layers.append(self.blob(gzip.compress(content, 6, mtime=0), "layer.v1.tar+gzip"))

    def finish(self, name):
        config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
                  "rootfs": {"type": "layers", "diff_ids": self.diff_ids}, "history": []}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": self.blob(json.dumps(config).encode(), "config.v1+json"),
                    "layers": self.layers}
        entry = self.blob(json.dumps(manifest).encode(), "manifest.v1+json")
        # The second is what Docker and containerd write beside the first, which may be a tag alone.
        entry["annotations"] = {"org.opencontainers.image.ref.name": name,
                                "io.containerd.image.name": f"docker.io/library/{name}:latest"}
        index = {"schemaVersion": 2, "manifests": [entry]}
        self.add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self.add("index.json", json.dumps(index).encode())
