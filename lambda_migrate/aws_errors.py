"""What errors of AWS mean: which policy refused a call, and what to set or add.

Loaded only for an error. IAM's texts are those of its manual ("Access denied error messages").
"""

from __future__ import annotations

import re

__all__ = ["describe_sdk_error", "explain_refusal", "find_partition", "is_configuration_error"]

_NO_REGION = (
    "no AWS Region is set: set AWS_REGION (or AWS_DEFAULT_REGION), for example to eu-west-1, or "
    "`region` in the profile"
)

_PARTITIONS = (
    ("cn-", "aws-cn"),
    ("us-gov-", "aws-us-gov"),
    ("us-isob-", "aws-iso-b"),
    ("us-isof-", "aws-iso-f"),
    ("eu-isoe-", "aws-iso-e"),
    ("us-iso-", "aws-iso"),
    ("eusc-", "aws-eusc"),
)
"""Prefixes of Regions, and the partition in the ARNs there."""

_KMS = re.compile(r"\bkms\b|\bKMS", re.IGNORECASE)
_POLICIES = (
    (
        re.compile(r"VPC endpoint polic", re.IGNORECASE),
        "the policy of the VPC endpoint refuses it, not the role: allow {permission} in that "
        "endpoint's policy",
    ),
    (
        re.compile(r"service control polic", re.IGNORECASE),
        "a service control policy (SCP) of the organization refuses it, not the role: ask its "
        "administrators to allow {permission} for this account",
    ),
    (
        re.compile(r"resource control polic", re.IGNORECASE),
        "a resource control policy (RCP) of the organization refuses it, not the role: ask its "
        "administrators to allow {permission} for this account",
    ),
    (
        re.compile(r"permissions? boundar", re.IGNORECASE),
        "the permissions boundary of the role refuses it: allow {permission} in the boundary as "
        "well as in the role's policy",
    ),
    (
        re.compile(r"session polic", re.IGNORECASE),
        "the session policy refuses it: allow {permission} in the policy that AssumeRole is "
        "called with",
    ),
    (
        re.compile(r"resource-based polic", re.IGNORECASE),
        "the policy of the resource refuses it: allow {permission} for this role there",
    ),
    (
        re.compile(r"explicit deny", re.IGNORECASE),
        "a policy denies it explicitly, which no Allow overrides: remove {permission} from the "
        "Deny statement, or narrow its condition",
    ),
)
"""Kinds of policies other than the role's own, as IAM's message names them."""


def is_configuration_error(error: Exception) -> bool:
    """Whether an error of botocore is one that a retry does not change; imports botocore."""
    from botocore import exceptions

    return isinstance(
        error,
        (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.TokenRetrievalError,
            exceptions.SSOError,
            exceptions.NoRegionError,
            exceptions.ProfileNotFound,
            exceptions.ParamValidationError,
            exceptions.InvalidRegionError,
        ),
    )


def describe_sdk_error(error: Exception) -> str:
    """Botocore's text; for a missing Region, which variable to set."""
    return _NO_REGION if type(error).__name__ == "NoRegionError" else str(error)


def find_partition(region: str) -> str:
    """The partition of a Region, for an ARN: ``aws-cn`` for ``cn-north-1``."""
    return next((name for prefix, name in _PARTITIONS if region.startswith(prefix)), "aws")


def explain_refusal(message: str, *, permission: str, resource: str) -> str:
    """Which policy refused a call, and what to change; "" if the role's own lacks a statement.

    Args:
        message: The service's text.
        permission: The action: ``dynamodb:GetItem``.
        resource: What it is refused on, for a KMS key: ``table``, ``secret``.
    """
    if _KMS.search(message):
        return (
            f"the {resource} is encrypted with a KMS key: allow kms:Decrypt on that key, in the "
            "key's policy and in the role, and check that the key is enabled"
        )
    for pattern, advice in _POLICIES:
        if pattern.search(message):
            return advice.format(permission=permission)
    return ""
