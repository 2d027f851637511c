FIGURE_DPI = 110  # dots per inch of every PNG
