"""Writes the Lambda package that Cloud Custodian deploys for a policy. Runs in its virtual environment.

Arguments: the policy file, the policy's name and the path of the package.
"""

import shutil
import sys

from c7n.config import Config
from c7n.mu import PolicyLambda
from c7n.policy import PolicyCollection
from c7n.resources import load_resources
from c7n.structure import StructureParser
from c7n.utils import load_file

policy_file, name, package = sys.argv[1:]
data = load_file(policy_file)
load_resources(StructureParser().get_resource_types(data))
options = Config.empty(account_id="111122223333", region="us-east-1")
[policy] = PolicyCollection.from_data(data, options).filter([name])
archive = PolicyLambda(policy).get_archive()  # deletes its file when it is garbage-collected
shutil.copy(archive.path, package)
