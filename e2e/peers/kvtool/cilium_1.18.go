//go:build cilium_1.18 || cilium_1.19 || cilium_1.20

package main

import (
	"context"
	"log/slog"

	"github.com/cilium/cilium/pkg/allocator"
	"github.com/cilium/cilium/pkg/clustermesh/clustercfg"
	"github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/identity/key"
	"github.com/cilium/cilium/pkg/kvstore"
	kvstoreAllocator "github.com/cilium/cilium/pkg/kvstore/allocator"
	"github.com/cilium/cilium/pkg/kvstore/store"
)

func newFactory(log *slog.Logger) store.Factory {
	return store.NewFactory(log, store.MetricsProvider())
}

func newAllocatorBackend(log *slog.Logger, base string, backend kvstore.BackendOperations) (allocator.Backend, error) {
	return kvstoreAllocator.NewKVStoreBackend(log, kvstoreAllocator.KVStoreBackendConfiguration{
		BasePath: base, Suffix: "kvtool", Typ: &key.GlobalIdentity{}, Backend: backend,
	})
}

func newClient(ctx context.Context, log *slog.Logger, options map[string]string, extra kvstore.ExtraOptions) (kvstore.BackendOperations, chan error) {
	return kvstore.NewClient(ctx, log, kvstore.EtcdBackendName, options, extra)
}

func getClusterConfig(ctx context.Context, cluster string, client kvstore.BackendOperations) (types.CiliumClusterConfig, error) {
	return clustercfg.Get(ctx, cluster, client)
}

func enforceClusterConfig(ctx context.Context, cluster string, config types.CiliumClusterConfig, client kvstore.BackendOperations) (stopAndWait func(), err error) {
	return clustercfg.Enforce(ctx, cluster, config, client, newLog())
}
