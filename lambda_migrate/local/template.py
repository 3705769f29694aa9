"""Reads resources of a CloudFormation or SAM template, with its intrinsic functions resolved.

    template = Template.read(Path("template.yaml"), {"LeaseTable": "leases"})
    alarm = template.properties("MigrationFailedAlarm")

It reads alarms; it does not emulate a deployment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.function import AWS_ACCOUNT_ID, REGION

__all__ = ["Template"]

_PSEUDO_PARAMETERS = {
    "AWS::AccountId": AWS_ACCOUNT_ID,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": "local",
    "AWS::NoValue": None,
}

_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "Fn::Join": lambda values: values[0].join(map(str, values[1])),
    "Fn::Select": lambda values: values[1][int(values[0])],
    "Fn::Equals": lambda values: str(values[0]) == str(values[1]),
    "Fn::Not": lambda values: not values[0],
    "Fn::And": all,
    "Fn::Or": any,
}


class Template:
    """A template and the values of its parameters.

    Args:
        body: As read: intrinsic functions in their long form.
        values: Parameters, and what a ``Ref`` to a resource stands for. Parameters that are not
            named have their defaults; a resource stands for its logical id, an attribute for
            ``Resource.Attribute``.
        name: For errors.
    """

    def __init__(
        self, body: Mapping[str, Any], values: Mapping[str, str] | None = None, *, name: str = ""
    ) -> None:
        self._body = body
        self._name = name or "the template"
        self._values: dict[str, Any] = {
            **_PSEUDO_PARAMETERS,
            **{
                parameter: str(declared["Default"])
                for parameter, declared in body.get("Parameters", {}).items()
                if "Default" in declared
            },
            **(values or {}),
        }

    @classmethod
    def read(cls, path: Path, values: Mapping[str, str] | None = None) -> Template:
        """Read a template.

        Raises:
            ConfigurationError: It cannot be read, or is not a template.
        """
        from cfnlint.decode.cfn_yaml import CfnParseError, loads
        from yaml import YAMLError

        try:
            body = loads(path.read_text(), str(path))
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        except (CfnParseError, YAMLError) as error:
            raise ConfigurationError(f"{path}: not a template: {error}") from error
        if not isinstance(body, dict) or "Resources" not in body:
            raise ConfigurationError(f"{path}: not a template: it has no Resources")
        return cls(body, values, name=str(path))

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """Logical id -> properties of every resource of a type whose condition holds."""
        return {
            logical_id: self.properties(logical_id)
            for logical_id, resource in self._body["Resources"].items()
            if resource.get("Type") == kind
            if "Condition" not in resource or self._call("Condition", resource["Condition"])
        }

    def properties(self, logical_id: str) -> dict[str, Any]:
        """A resource's properties.

        Raises:
            ConfigurationError: They use a function that is not supported.
        """
        resolved: dict[str, Any] = self._resolve(self._body["Resources"][logical_id]["Properties"])
        return resolved

    def _resolve(self, node: Any) -> Any:
        if isinstance(node, list):
            return [each for each in map(self._resolve, node) if each is not None]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            [(name, argument)] = node.items()
            is_condition = name == "Condition" and isinstance(argument, str)
            if name == "Ref" or name.startswith("Fn::") or is_condition:
                return self._call(name, argument)
        resolved = {key: self._resolve(value) for key, value in node.items()}
        return {key: value for key, value in resolved.items() if value is not None}

    def _call(self, name: str, argument: Any) -> Any:
        """The value of an intrinsic function, or of a condition."""
        if name == "Ref":
            return self._value(argument)
        if name == "Fn::GetAtt":
            return self._value(argument if isinstance(argument, str) else ".".join(argument))
        if name == "Fn::Sub":
            text, own = (argument, {}) if isinstance(argument, str) else self._resolve(argument)
            return re.sub(r"\$\{([^}]*)\}", lambda found: str(self._value(found[1], own)), text)
        if name == "Fn::If":
            condition, yes, no = argument
            return self._resolve(yes if self._call("Condition", condition) else no)
        if name == "Condition" and argument in self._body.get("Conditions", {}):
            return self._resolve(self._body["Conditions"][argument])
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](self._resolve(argument))
        raise ConfigurationError(f"{self._name}: {name} {argument} is unknown or not supported")

    def _value(self, name: str, own: Mapping[str, Any] | None = None) -> Any:
        values = {**self._values, **(own or {})}
        if name in values or name.partition(".")[0] in self._body["Resources"]:
            return values.get(name, name)
        raise ConfigurationError(
            f"{self._name}: {name} has no value: give it one; it is neither a resource nor a "
            "parameter with a default"
        )
