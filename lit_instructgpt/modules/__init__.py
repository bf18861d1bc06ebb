from lit_instructgpt.modules.ppo import PPOModule
from lit_instructgpt.modules.ppo_config import PPOConfig
from lit_instructgpt.modules.ranking_rm import RankingRM
from lit_instructgpt.modules.sft import SFT

__all__ = ["SFT", "PPOConfig", "PPOModule", "RankingRM"]
