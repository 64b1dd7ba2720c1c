import { experimental, type ServerCredentials, type ServerOptions } from '@grpc/grpc-js';
import {
  DEFAULT_KEEPALIVE,
  FLOW_CONTROL_WINDOW_BYTES,
  fileProvider,
  MAX_MESSAGE_BYTES,
  type TlsFiles,
} from './grpc-client.ts';

/** Options that every gRPC server of ours uses: windows and message sizes as our clients', silent clients given up after 15 s. */
export function grpcServerOptions(options: { maxReceiveBytes?: number } = {}): ServerOptions {
  return {
    'grpc-node.flow_control_window': FLOW_CONTROL_WINDOW_BYTES,
    'grpc.max_receive_message_length': options.maxReceiveBytes ?? MAX_MESSAGE_BYTES,
    'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
    'grpc.keepalive_time_ms': DEFAULT_KEEPALIVE.timeMs,
    'grpc.keepalive_timeout_ms': DEFAULT_KEEPALIVE.timeoutMs,
  };
}

/**
 * Mutual TLS from files, read again every `refreshMs` (10,000 by default). A client without a certificate of the CA in
 * `caFile` gets no connection.
 */
export function reloadingServerCredentials(files: TlsFiles, refreshMs = 10_000): ServerCredentials {
  const provider = fileProvider(files, refreshMs);
  return experimental.createCertificateProviderServerCredentials(provider, provider, true);
}
