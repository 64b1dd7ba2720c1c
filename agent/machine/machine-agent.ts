/** What an agent does besides when it runs as a machine: its certificate, its peers' files, its checks, its addresses. */
import { randomUUID } from 'node:crypto';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { MachineConfig, MachineSide } from '../registry/session-machine.ts';
import { chooseAddresses } from './address-choice.ts';
import { createHealthChecks } from './health-checks.ts';
import { MachineError, reasonOf } from './machine-error.ts';
import { readCertificates } from './machine-files.ts';
import { type MachineRecord, readMachineRecord, writeMachineRecord } from './machine-record.ts';
import { writePeerFiles } from './peer-files.ts';
import { createRenewal } from './renewal.ts';
import { type Surroundings, thisMachine } from './surroundings.ts';

const LOOK_EACH_MS = 2000;
/** An interface that is set up anew loses its address for a moment: only what is gone twice in a row is gone. */
const GONE_AFTER_LOOKS = 2;

/** A machine's own part of an agent. */
export interface MachineAgent {
  readonly record: MachineRecord;
  /** For the session with the registry. */
  readonly side: MachineSide;
  /** To run beside the agent's own parts: checks; and the problems of all the rest, a sentence each. */
  readonly part: {
    run(signal: AbortSignal): Promise<void>;
    problems(): readonly string[];
  };
  /** Calls back when new certificates are in use, until the returned function is called. */
  onRenewed(callback: () => void): () => void;
  /**
   * Runs an agent by the machine's addresses until `signal` aborts; when these have gone and there are others, the agent is ended
   * and run again by those, in the same process: maps and links stay, and so does the session's id. Throws what `runAgent` throws.
   */
  run(
    runAgent: (addresses: readonly IpAddress[], signal: AbortSignal) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void>;
}

/** Opens a machine that has joined. Throws MachineError `state` when it has not, or its files are damaged. */
export function openMachineAgent(options: {
  readonly stateDir: string;
  /** Differs after each boot, and on each clone of a disk. */
  readonly instanceId: string;
  readonly surroundings?: Pick<Surroundings, 'ownAddresses' | 'resolve' | 'routeTo'>;
  readonly clock: Clock;
  readonly logger: Logger;
}): MachineAgent {
  const { stateDir, clock, logger, surroundings = thisMachine() } = options;
  let record = openRecord(stateDir);
  const renewed = new Set<() => void>();
  let addressProblem: string | undefined;
  let configProblem: string | undefined;
  const checks = createHealthChecks({
    address: () => record.addresses[0] ?? 'localhost',
    clock,
  });
  const renewal = createRenewal({
    stateDir,
    record,
    onRenewed: () => {
      for (const callback of renewed) callback();
    },
    clock,
    logger,
  });

  const onConfig = (config: MachineConfig): void => {
    checks.set(config.checks);
    try {
      const { added, removed } = writePeerFiles(stateDir, record, config.peers);
      if (added.length + removed.length > 0) {
        logger.info({ added, removed }, "the cluster's peers have changed");
      }
      renewal.setTrustBundle(config.trustBundle);
      renewal.setIssuer(config.issuer);
      configProblem = undefined;
    } catch (error) {
      configProblem = `cannot write what the cluster has decided for this machine: ${reasonOf(error)}`;
      logger.error({ err: error }, 'cannot write what the cluster has decided for this machine');
    }
  };

  /** Addresses that the machine should be reached by, if those of before are gone. */
  const nextAddresses = async (signal: AbortSignal): Promise<readonly IpAddress[]> => {
    const present = new Set(surroundings.ownAddresses().map(({ address }) => address));
    const missing = record.addresses.filter((address) => !present.has(address));
    if (missing.length === 0) {
      addressProblem = undefined;
      return record.addresses;
    }
    const gone = `${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} not on this machine any more`;
    if (record.hasFixedAddresses) {
      addressProblem = `${gone}, and was chosen by --address when it joined: bring it back, or run clustermesh vm leave and join by another`;
      return record.addresses;
    }
    try {
      const [registry] = record.registries;
      const choice = await chooseAddresses({
        host: registry?.host ?? '',
        wanted: [],
        surroundings,
        signal,
      });
      return choice.addresses;
    } catch (error) {
      signal.throwIfAborted();
      addressProblem = `${gone}: ${reasonOf(error)}`;
      return record.addresses;
    }
  };

  const take = (addresses: readonly IpAddress[]): void => {
    logger.warn(
      { before: record.addresses, now: addresses },
      'the addresses of this machine have changed',
    );
    record = { ...record, addresses };
    addressProblem = undefined;
    writeMachineRecord(stateDir, record);
  };

  /** Resolves when the machine has other addresses, or `signal` aborts. */
  const followAddresses = async (signal: AbortSignal): Promise<void> => {
    let looks = 0;
    while (!signal.aborted) {
      await clock.sleep(LOOK_EACH_MS, signal).catch(() => undefined);
      if (signal.aborted) return;
      const next = await nextAddresses(signal).catch(() => record.addresses);
      looks = next === record.addresses ? 0 : looks + 1;
      if (looks < GONE_AFTER_LOOKS) continue;
      take(next);
      return;
    }
  };

  return {
    get record() {
      return record;
    },
    side: {
      instanceId: options.instanceId,
      runId: randomUUID(),
      onConfig,
      results: (signal) => checks.results(signal),
    },
    part: {
      run: (signal) => checks.run(signal),
      problems: () =>
        [...renewal.problems(), ...checks.problems(), addressProblem, configProblem].filter(
          (problem) => problem !== undefined,
        ),
    },
    onRenewed(callback) {
      renewed.add(callback);
      return () => renewed.delete(callback);
    },
    async run(runAgent, signal) {
      const ended = new AbortController();
      const whole = AbortSignal.any([signal, ended.signal]);
      const renewing = renewal.run(whole);
      try {
        const first = await nextAddresses(whole);
        if (first !== record.addresses) take(first);
        while (!signal.aborted) {
          const moved = new AbortController();
          const life = AbortSignal.any([whole, moved.signal]);
          const following = followAddresses(life).finally(() => moved.abort());
          try {
            await runAgent(record.addresses, life);
          } catch (error) {
            // What fails while it is being ended is of no interest.
            if (!life.aborted) throw error;
          } finally {
            const wasMoved = moved.signal.aborted;
            moved.abort();
            await following;
            if (!wasMoved) ended.abort();
          }
          if (ended.signal.aborted) return;
        }
      } finally {
        ended.abort();
        await renewing;
      }
    },
  };
}

function openRecord(stateDir: string): MachineRecord {
  const record = readMachineRecord(stateDir);
  if (record === undefined || readCertificates(stateDir) === undefined) {
    throw new MachineError(
      'state',
      `cannot run as a machine: ${stateDir} holds no machine that has joined; run clustermesh vm join first`,
    );
  }
  return record;
}
