"""An exported model to a signature that only the holder of a private key can make, offline, by OpenSSF model signing.

The ONNX file is signed; it names its sidecar's digest, so a signature of it holds for both. Needs the extra ``sign``.
"""

from pathlib import Path
from typing import Any

from hemalens.core.errors import ArtifactError, ConfigError, MissingExtraError

__all__ = ["check_signature", "require_key", "sign_model", "signature_path"]

_MAKE = "make one: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def signature_path(model: Path) -> Path:
    """Return where the signature of an ONNX file lies."""
    return model.with_name(f"{model.name}.sig")


def require_key(key: Path) -> None:
    """Raise before the work is done where it could not be signed in the end."""
    _library()
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        good = isinstance(load_pem_private_key(key.read_bytes(), None), EllipticCurvePrivateKey)
    except OSError as error:
        raise ConfigError(f"key {key}", f"cannot be read ({error.strerror})", _MAKE) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"key {key}", "is no private key in PEM without a password", _MAKE) from error
    if not good:
        raise ConfigError(f"key {key}", "is not of an elliptic curve", _MAKE)


def sign_model(model: Path, key: Path) -> Path:
    """Write the signature of an ONNX file beside it and return its path."""
    out = signature_path(model)
    _library().signing.Config().use_elliptic_key_signer(private_key=key).sign(model, out)
    return out


def check_signature(model: Path, public_key: Path) -> None:
    """Raise ArtifactError where a model's signature is missing, of other bytes or by another key."""
    library, beside = _library(), signature_path(model)
    if not public_key.is_file():
        raise ConfigError(f"key {public_key}", "does not exist", "give the signer's public key in PEM")
    if not beside.is_file():
        raise ArtifactError(f"model {model}", f"has no signature {beside.name} beside it", "ask its maker for it")
    try:
        library.verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(model, beside)
    except Exception as error:  # of many kinds, and a signature that does not hold is none
        rule = (
            f"is not what the holder of {public_key.name} signed ({str(error).splitlines()[0] or type(error).__name__})"
        )
        raise ArtifactError(
            f"model {model}", rule, "get model, sidecar and signature from their maker again"
        ) from error


def _library() -> Any:  # noqa: ANN401  # a module
    try:
        import model_signing
    except ModuleNotFoundError as error:
        raise MissingExtraError("a signature", "sign") from error
    return model_signing
