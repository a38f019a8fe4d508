"""Jobs that were queued before `Task` moved to core/cluster/task.py name it here in submitit's pickle."""

from core.cluster.task import Task as Task
