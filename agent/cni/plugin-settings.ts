import type { PluginSettings } from './conf-list.ts';

/** How long a pod's start waits for an agent by default, by what becomes of it then. */
const DEFAULT_TIMEOUT_MS = { wait: 30_000, open: 0 } as const;

/** What the plugin is told, by the agent's options. */
export function pluginSettings(values: {
  readonly socketPath: string;
  readonly cniWhenAgentDown: PluginSettings['agentDown'];
  readonly cniAgentDownTimeout: number | undefined;
}): PluginSettings {
  const agentDown = values.cniWhenAgentDown;
  return {
    socketPath: values.socketPath,
    agentDown,
    agentDownTimeoutMs: values.cniAgentDownTimeout ?? DEFAULT_TIMEOUT_MS[agentDown],
  };
}
