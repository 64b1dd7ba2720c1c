/** `clustermesh vm`: machines outside Kubernetes. */
import { Command } from 'commander';
import { vmEndpointCommand } from './vm-endpoint.ts';
import { vmFirewallCommand } from './vm-firewall.ts';
import { vmJoinCommand } from './vm-join.ts';
import { vmLabelCommand } from './vm-label.ts';
import { vmLeaveCommand } from './vm-leave.ts';
import { vmListCommand } from './vm-list.ts';
import { vmRemoveCommand } from './vm-remove.ts';
import { vmStatusCommand } from './vm-status.ts';
import type { VmContext } from './vm-text.ts';
import { vmTokenCommand } from './vm-token.ts';

/** Builds the command with all that is below it. */
export function vmCommand(context: VmContext): Command {
  return new Command('vm')
    .addCommand(vmTokenCommand(context))
    .addCommand(vmListCommand(context))
    .addCommand(vmStatusCommand(context))
    .addCommand(vmLabelCommand(context))
    .addCommand(vmEndpointCommand(context))
    .addCommand(vmRemoveCommand(context))
    .addCommand(vmJoinCommand(context))
    .addCommand(vmLeaveCommand(context))
    .addCommand(vmFirewallCommand(context));
}
