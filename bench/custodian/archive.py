"""Writes the Lambda archive that Cloud Custodian itself would deploy for a policy. Runs in its environment.

Arguments: the file of policies with one in it, and where to write the archive.
"""

import shutil
import sys
from pathlib import Path

from c7n.config import Config
from c7n.mu import PolicyLambda
from c7n.policy import PolicyCollection
from c7n.resources import load_resources
from c7n.structure import StructureParser
from c7n.utils import load_file

policies, archive = map(Path, sys.argv[1:])
data = load_file(str(policies))
load_resources(StructureParser().get_resource_types(data))
options = Config.empty(account_id="111122223333", region="us-east-1")
[policy] = PolicyCollection.from_data(data, options)
made = PolicyLambda(policy).get_archive()  # its file goes when it goes
shutil.copy(made.path, archive)
