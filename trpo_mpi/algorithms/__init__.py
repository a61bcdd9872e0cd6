"""What an iteration does with a batch: the policy step and the critic's fit."""
