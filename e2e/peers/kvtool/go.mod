// Only marks the folder as a module's root. What it is built with stands in the go.mod of each peer: ../cilium-*/go.mod.
module isthmus/e2e/peers/kvtool

go 1.24
