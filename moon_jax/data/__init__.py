"""The data contract, the planted world and the adapters of public sets. Import the module you need."""
