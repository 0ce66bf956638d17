"""Evaluates a template for a set of parameters as CloudFormation does, as far as this template needs it."""

import re
from typing import Any

type Template = dict[str, Any]
type Resources = dict[str, dict[str, Any]]

ACCOUNT = "111122223333"
STACK = "ecr-allow-pull"
STACK_UUID = "51af3dc0-da77-11e4-872e-1234567db123"
REGION = "eu-west-1"
ROLE_ARN = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
_NO_VALUE = object()


class Evaluator:
    """Evaluates the conditions and functions of a template.

    A reference to a resource becomes its logical id, with the attribute, in angle brackets: `<Function.Arn>`.
    """

    def __init__(
        self, template: Template, region: str = REGION, partition: str = "aws", **parameters: str
    ) -> None:
        defaults = {
            name: str(one["Default"]) for name, one in template["Parameters"].items() if "Default" in one
        }
        self._template = template
        self._values: dict[str, Any] = {
            "WorkerRoleArns": ROLE_ARN,
            **defaults,
            **parameters,
            "AWS::AccountId": ACCOUNT,
            "AWS::NoValue": _NO_VALUE,
            "AWS::Partition": partition,
            "AWS::Region": region,
            "AWS::StackId": f"arn:{partition}:cloudformation:{region}:{ACCOUNT}:stack/{STACK}/{STACK_UUID}",
            "AWS::StackName": STACK,
        }
        unknown = parameters.keys() - template["Parameters"].keys()
        assert not unknown, unknown

    def resources(self) -> Resources:
        """Return the properties of the resources whose condition is met, by logical id."""
        return {
            name: self.evaluate(resource.get("Properties", {}))
            for name, resource in self._template["Resources"].items()
            if "Condition" not in resource or self._condition(resource["Condition"])
        }

    def evaluate(self, value: Any) -> Any:  # noqa: ANN401, PLR0911 - a part of a template
        """Evaluate a part of the template."""
        match value:
            case {"Ref": name}:
                return self._values.get(name, f"<{name}>")
            case {"Fn::GetAtt": [resource, attribute]}:
                return f"<{resource}.{attribute}>"
            case {"Fn::If": [condition, yes, no]}:
                return self.evaluate(yes if self._condition(condition) else no)
            case {"Fn::Join": [separator, parts]}:
                return separator.join(self.evaluate(parts))
            case {"Fn::Select": [index, items]}:
                return self.evaluate(items)[int(index)]
            case {"Fn::Split": [separator, text]}:
                return self.evaluate(text).split(separator)
            case {"Fn::Sub": argument}:
                return (
                    self._substitute(*argument) if isinstance(argument, list) else self._substitute(argument)
                )
            case dict():
                evaluated = {key: self.evaluate(item) for key, item in value.items()}
                return {key: item for key, item in evaluated.items() if item is not _NO_VALUE}
            case list():
                return [item for item in map(self.evaluate, value) if item is not _NO_VALUE]
        return value

    def _condition(self, name: str) -> bool:
        return self._is_true(self._template["Conditions"][name])

    def _is_true(self, condition: Any) -> bool:  # noqa: ANN401 - a part of a template
        match condition:
            case {"Condition": name}:
                return self._condition(name)
            case {"Fn::Equals": [left, right]}:
                return bool(self.evaluate(left) == self.evaluate(right))
            case {"Fn::Not": [inner]}:
                return not self._is_true(inner)
            case {"Fn::And": conditions}:
                return all(map(self._is_true, conditions))
            case {"Fn::Or": conditions}:
                return any(map(self._is_true, conditions))
        raise AssertionError(f"unknown condition {condition}")

    def _substitute(self, text: str, variables: dict[str, Any] | None = None) -> str:
        known = self._values | self.evaluate(variables or {})
        return re.sub(r"\$\{([\w:.]+)\}", lambda match: str(known.get(match[1], f"<{match[1]}>")), text)


def deployed(template: Template, **parameters: str) -> Resources:
    """Return the resources of a stack with these parameters."""
    return Evaluator(template, **parameters).resources()
