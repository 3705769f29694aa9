"""Reads resources of a CloudFormation or SAM template, with its intrinsic functions resolved.

    template = Template.read(Path("template.yaml"), {"LeaseTable": "leases"})
    alarm = template.properties("MigrationFailedAlarm")

It reads alarms and the dashboard; it does not emulate a deployment.
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
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{AWS_ACCOUNT_ID}:stack/local/1",
    "AWS::URLSuffix": "amazonaws.com",
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

_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")


class Template:
    """A template and the values of its parameters.

    Args:
        body: As read: intrinsic functions in their long form.
        values: Parameters, and what a ``Ref`` to a resource or ``Resource.Attribute`` stands for.
            Parameters that are not named have their defaults; a resource stands for its logical
            id, an attribute for ``Resource.Attribute``.
        name: For errors.
    """

    def __init__(
        self, body: Mapping[str, Any], values: Mapping[str, str] | None = None, *, name: str = ""
    ) -> None:
        self._body = body
        self._name = name or "the template"
        defaults = {
            parameter: str(declared["Default"])
            for parameter, declared in body.get("Parameters", {}).items()
            if "Default" in declared
        }
        self._values: dict[str, Any] = {**_PSEUDO_PARAMETERS, **defaults, **(values or {})}

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
            ConfigurationError: There is none, or it uses an unsupported function.
        """
        resource = self._body["Resources"].get(logical_id)
        if resource is None:
            raise ConfigurationError(f"{self._name}: there is no resource {logical_id}")
        resolved: dict[str, Any] = self._resolve(resource.get("Properties", {}))
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
            return self._substitute(argument)
        if name == "Fn::If":
            condition, yes, no = argument
            return self._resolve(yes if self._call("Condition", condition) else no)
        if name == "Condition":
            if argument not in self._body.get("Conditions", {}):
                raise ConfigurationError(f"{self._name}: there is no condition {argument}")
            return self._resolve(self._body["Conditions"][argument])
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](self._resolve(argument))
        raise ConfigurationError(f"{self._name}: {name} is not supported")

    def _value(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        if name.partition(".")[0] in self._body["Resources"]:
            return name
        raise ConfigurationError(
            f"{self._name}: {name} has no value: give it one, it is neither a resource nor a "
            "parameter with a default"
        )

    def _substitute(self, argument: Any) -> str:
        text, more = (argument, {}) if isinstance(argument, str) else argument
        own = self._resolve(more)

        def replace(found: re.Match[str]) -> str:
            literal, name = found.groups()
            if literal:
                return f"${{{name}}}"
            return str(own[name] if name in own else self._value(name))

        return _VARIABLE.sub(replace, text)
